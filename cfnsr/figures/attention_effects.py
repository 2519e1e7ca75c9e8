"""What attention maps are worth, and what systems rely on, as figures; never imports torch."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cfnsr.evaluation.typeset import MINUS
from cfnsr.figures.style import (
    BLUE,
    GREEN,
    GREY,
    LIGHT_GREY,
    ORANGE,
    PURPLE,
    VERMILLION,
    drawn,
    entitle,
    ink,
)

if TYPE_CHECKING:
    from cfnsr.attention.deletion import Curves
    from cfnsr.attention.maps import Gate

#: As `cfnsr.attention.survey.located_maps` names them.
_KINDS = (
    "cross-modal, face",
    "Grad-CAM, face",
    "rollout, voice",
    "cross-modal, voice",
    "Grad-CAM, voice",
)


@drawn
def nothing(sentence: str, title: str) -> Figure:
    """Says why there is no figure, in the figure's place."""
    figure, axis = plt.subplots(figsize=(6, 1.6), layout="constrained")
    axis.axis("off")
    axis.text(0.5, 0.5, sentence, ha="center", va="center", color=GREY, wrap=True)
    entitle(figure, title)
    return figure


@drawn
def gates(by_row: Mapping[str, Sequence["Gate"]], title: str) -> Figure:
    """How strongly each channel is let through, channels sorted; the band is 80 % of the clips.

    Args:
        by_row: the gates of each system, by its label.
    """
    n_columns = max(len(found) for found in by_row.values())
    figure, axes = plt.subplots(
        len(by_row),
        n_columns,
        figsize=(2.1 * n_columns + 0.8, 2 * len(by_row) + 0.8),
        squeeze=False,
        layout="constrained",
    )
    for line, (label, found) in zip(axes, by_row.items(), strict=True):
        for axis in line[len(found) :]:
            axis.remove()
        for axis, gate in zip(line, found, strict=False):
            mean = gate.values.mean(axis=0)
            low, high = np.quantile(gate.values, [0.1, 0.9], axis=0)
            order = mean.argsort()
            channel = np.arange(1, len(order) + 1)
            colour = BLUE if gate.modality == "video" else ORANGE
            axis.fill_between(
                channel, low[order], high[order], color=colour, alpha=0.3, linewidth=0
            )
            axis.plot(channel, mean[order], color=colour)
            axis.axhline(gate.neutral, linestyle=":", color=GREY)
            axis.set(ylim=(0, None), title=f"{gate.place}, {gate.modality}")
        line[0].set_ylabel(f"{label}\ngate")
    for column in axes.T:
        [*_, lowest] = [axis for axis in column if axis.figure is not None]
        lowest.set_xlabel("channels, sorted")
    entitle(figure, title)
    return figure


@drawn
def deletion(
    curves: Mapping[str, "Curves"], gains: pd.DataFrame, hidden: Mapping[str, str], title: str
) -> Figure:
    """How sure the network remains as parts are hidden, and the areas to hiding at random.

    Args:
        curves: by the map's name.
        gains: columns map, area (deletion or insertion), mean, ci_low, ci_high.
        hidden: what is hidden, by the map's name.
    """
    figure, axes = plt.subplots(
        1,
        len(curves) + 1,
        figsize=(max(2.3 * (len(curves) + 1) + 0.6, 7.2), 3.2),
        squeeze=False,
        layout="constrained",
    )
    for axis, (name, found) in zip(axes[0], curves.items(), strict=False):
        for label, values, colour, style in (
            ("most attended first (deletion)", found.most_first, VERMILLION, "o-"),
            ("at random", found.random, GREY, "s:"),
            ("least attended first (insertion, read backwards)", found.least_first, BLUE, "^-"),
        ):
            axis.plot(
                100 * found.hidden,
                values.mean(axis=1),
                style,
                color=colour,
                markersize=3,
                label=label,
            )
        axis.set(title=name, xlabel=f"% {hidden[name]} hidden", ylim=(0, 1))
    axes[0, 0].set_ylabel("probability of the emotion\npredicted from the whole clip")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    last = axes[0, -1]
    names = list(curves)
    for offset, (area, colour) in zip(
        (-0.13, 0.13), (("deletion", VERMILLION), ("insertion", BLUE)), strict=True
    ):
        lines = gains[gains["area"] == area].set_index("map").loc[names]
        ends = np.abs(lines[["ci_low", "ci_high"]].to_numpy().T - lines["mean"].to_numpy())
        last.errorbar(
            lines["mean"],
            np.arange(len(names)) + offset,
            xerr=ends,
            fmt="o",
            color=colour,
            markersize=4,
        )
    last.xaxis.set_major_locator(MaxNLocator(4))
    last.axvline(0, linestyle=":", color=GREY)
    last.set_yticks(range(len(names)), names)
    last.set_ylim(len(names) - 0.5, -0.5)
    last.set(xlabel="area to random\n(95 % interval by actor)", title="more than chance?")
    entitle(figure, title)
    return figure


@drawn
def localisation(table: pd.DataFrame, title: str) -> Figure:
    """Each system's maps against the cue that the generator put in, with intervals by actor.

    Args:
        table: columns label, map, lift, ci_low, ci_high.
    """
    kinds = [kind for kind in _KINDS if kind in set(table["map"])]
    labels = list(dict.fromkeys(table["label"]))
    figure, axes = plt.subplots(
        1,
        len(kinds),
        figsize=(max(1.75 * len(kinds) + 2.4, 6), 0.26 * len(labels) + 1.5),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, kind in zip(axes[0], kinds, strict=True):
        lines = table[table["map"] == kind]
        position = [labels.index(label) for label in lines["label"]]
        ends = np.abs(lines[["ci_low", "ci_high"]].to_numpy().T - lines["lift"].to_numpy())
        colour = BLUE if kind.endswith("face") else ORANGE
        axis.errorbar(lines["lift"], position, xerr=ends, fmt="o", color=colour, markersize=4)
        axis.axvline(1, linestyle=":", color=GREY)
        axis.set_title(kind.replace(", ", ",\n"), fontsize=8)
        axis.set_axisbelow(True)
        axis.grid(axis="y", color=LIGHT_GREY, linewidth=0.5)
    axes[0, 0].set_yticks(range(len(labels)), labels)
    axes[0, 0].set_ylim(len(labels) - 0.5, -0.5)
    figure.supxlabel(
        "share of the map on the cue / share by chance (95 % interval by actor)", fontsize=9
    )
    entitle(figure, title)
    return figure


@drawn
def reliance(table: pd.DataFrame, highlighted: Sequence[str], title: str) -> Figure:
    """Accuracy of every system under every condition; below, how some of them decline.

    Args:
        table: of `cfnsr.attention.reliance.summarise`.
        highlighted: rows whose sweeps are drawn with intervals.
    """
    conditions = list(dict.fromkeys(zip(table["condition"], table["level"].fillna(0), strict=True)))
    order = ["intact", "video silenced", "video swapped", "frames dropped"]
    order += ["audio silenced", "audio swapped", "audio noise"]
    conditions.sort(
        key=lambda found: (order.index(found[0]), found[1] * (-1 if "noise" in found[0] else 1))
    )
    labels = list(dict.fromkeys(table["label"]))
    cells = table.assign(level=table["level"].fillna(0)).pivot_table(
        index="label", columns=["condition", "level"], values="accuracy_pct", sort=False
    )
    cells = cells.reindex(index=labels, columns=pd.MultiIndex.from_tuples(conditions))
    figure, axes = plt.subplot_mosaic(
        [["all", "all"], ["noise", "dropped"]],
        figsize=(max(0.56 * len(conditions) + 2.6, 6.5), 0.27 * len(labels) + 5),
        height_ratios=[0.27 * len(labels) + 1.2, 2.4],
        layout="constrained",
    )
    _accuracy_cells(axes["all"], cells)
    for name, condition, x in (
        ("noise", "audio noise", "signal-to-noise ratio of the sound, dB"),
        ("dropped", "frames dropped", "frames dropped, %"),
    ):
        axis = axes[name]
        for row, colour, marker in zip(
            highlighted, (VERMILLION, BLUE, GREEN, PURPLE), "os^D", strict=False
        ):
            lines = table[(table["row"] == row) & (table["condition"] == condition)]
            if lines.empty:
                continue
            ends = np.abs(
                lines[["ci_low_pct", "ci_high_pct"]].to_numpy().T - lines["accuracy_pct"].to_numpy()
            )
            axis.errorbar(
                lines["level"],
                lines["accuracy_pct"],
                yerr=ends,
                marker=marker,
                color=colour,
                markersize=4,
                label=lines["label"].iloc[0],
            )
            intact = table[(table["row"] == row) & (table["condition"] == "intact")]
            axis.axhline(intact["accuracy_pct"].iloc[0], linestyle=":", color=colour, linewidth=1)
        axis.set(xlabel=x, ylim=(0, 104), ylabel="accuracy, % of clips")
        measured = table.loc[table["condition"] == condition, "level"].unique()
        axis.set_xticks(measured, [f"{level:.0f}".replace("-", MINUS) for level in measured])
        if not axis.lines:
            axis.axis("off")  # none of these rows has that modality
    axes["noise"].invert_xaxis()
    shown = {
        label: handle
        for name in ("noise", "dropped")
        for handle, label in zip(*axes[name].get_legend_handles_labels(), strict=True)
    }
    shown["intact"] = Line2D([], [], linestyle=":", color=GREY)
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=len(shown))
    entitle(figure, title)
    return figure


def _accuracy_cells(axis: Axes, cells: pd.DataFrame) -> None:
    values = cells.to_numpy()
    image = axis.imshow(np.ma.masked_invalid(values), "cividis", vmin=0, vmax=100, aspect="auto")
    for i, j in np.argwhere(~np.isnan(values)):
        axis.text(
            j,
            i,
            f"{values[i, j]:.0f}",
            ha="center",
            va="center",
            fontsize=7,
            color=ink(tuple(image.to_rgba(values[i, j]))),
        )
    axis.set_yticks(range(len(cells)), cells.index.tolist())
    axis.xaxis.tick_top()  # first: the labels below are others than those on top
    axis.set_xticks(
        range(cells.shape[1]),
        [_condition(*name) for name in cells.columns],
        rotation=40,
        ha="left",
        rotation_mode="anchor",
    )
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("accuracy, % of clips; empty where the system has no such modality")


def _condition(condition: str, level: float) -> str:
    if condition == "audio noise":
        return f"noise, {level:.0f} dB".replace("-", MINUS)
    return f"{level:.0f} % of frames lost" if condition == "frames dropped" else condition
