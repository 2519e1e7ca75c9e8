"""What attention maps are worth, and what systems rely on, as figures; never imports torch."""

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cfnsr.evaluation.tables import setting
from cfnsr.evaluation.typeset import MINUS
from cfnsr.figures.style import (
    BLUE,
    GREEN,
    GREY,
    LIGHT_GREY,
    ORANGE,
    VERMILLION,
    drawn,
    entitle,
    ink,
    nothing,
    to_ends,
)
from cfnsr.models.registry import find

if TYPE_CHECKING:
    from cfnsr.attention.survey import Effect, Study, Survey

#: As `cfnsr.attention.survey.located_maps` names them.
_KINDS = (
    "cross-modal, face",
    "Grad-CAM, face",
    "rollout, voice",
    "cross-modal, voice",
    "Grad-CAM, voice",
)
#: What the conditions of `cfnsr.attention.reliance` are called, from left to right.
_CONDITIONS = {
    "intact": "intact",
    "video silenced": "no face",
    "video swapped": "another clip's face",
    "frames dropped": "{:.0f} % of frames lost",
    "audio silenced": "no voice",
    "audio swapped": "another clip's voice",
    "audio noise": "noise, {:.0f} dB",
}


@drawn
def gates(study: "Study", survey: "Survey", title: str) -> Figure:
    """How strongly MMTM and MSAF let each channel through, sorted; the band is 80 % of the clips.

    Of each row's first run: of two trainings, no channels match.
    """
    by_row = survey.gates
    if not by_row:
        sentence = "Neither MMTM nor MSAF was trained: params.yaml leaves them out."
        return nothing(sentence, f"{title}\n{setting(study.settings)}")
    n_columns = max(map(len, by_row.values()))
    size = (2.1 * n_columns + 0.8, 2 * len(by_row) + 0.8)
    figure, axes = plt.subplots(len(by_row), n_columns, figsize=size, squeeze=False)
    for line, (label, found) in zip(axes, by_row.items(), strict=True):
        for axis in line[len(found) :]:
            axis.remove()
        for axis, gate in zip(line, found, strict=False):
            mean = gate.values.mean(axis=0)
            low, high = np.quantile(gate.values, [0.1, 0.9], axis=0)
            order = mean.argsort()
            channel = np.arange(1, len(order) + 1)
            colour = BLUE if gate.stream == "face" else ORANGE
            band = {"color": colour, "alpha": 0.3, "linewidth": 0}
            axis.fill_between(channel, low[order], high[order], **band)
            axis.plot(channel, mean[order], color=colour)
            axis.axhline(gate.neutral, linestyle=":", color=GREY)
            axis.set(ylim=(0, None), title=f"{gate.place}, {gate.stream}")
        line[0].set_ylabel(f"{label}\ngate")
    for column in axes.T:
        [*_, lowest] = [axis for axis in column if axis.figure is not None]
        lowest.set_xlabel("channels, sorted")
    n_clips = max(len(found[0].values) for found in by_row.values())
    where = setting(study.settings, survey.gate_folds)
    entitle(figure, f"{title}\n{where}; {n_clips} test clips")
    return figure


@drawn
def deletion(study: "Study", row: str, effect: "Effect", title: str) -> Figure:
    """How sure a row's networks remain as parts are hidden, and the areas to hiding at random."""
    title = f"{title}\n{find(row).label}, {setting(study.settings)}"
    names = list(effect.curves)
    if not names:
        return nothing(f"{find(row).label} has no map that says where.", title)
    n_panels = len(names) + 1
    size = (max(2.3 * n_panels + 0.6, 7.2), 3.2)
    figure, axes = plt.subplots(1, n_panels, figsize=size)
    for axis, (name, found) in zip(axes, effect.curves.items(), strict=False):
        for label, values, colour, style in (
            ("most attended first (deletion)", found.most_first, VERMILLION, "o-"),
            ("at random", found.random, GREY, "s:"),
            ("least attended first (insertion, read backwards)", found.least_first, BLUE, "^-"),
        ):
            mark = {"color": colour, "markersize": 3, "label": label}
            axis.plot(100 * found.hidden, values.mean(axis=1), style, **mark)
        hidden = "picture" if name.endswith("face") else "sound"
        axis.set(title=name, xlabel=f"% of the {hidden} hidden", ylim=(0, 1))
    axes[0].set_ylabel("probability of the emotion\npredicted from the whole clip")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    last, gains = axes[-1], effect.gains
    for offset, area, colour in ((-0.13, "deletion", VERMILLION), (0.13, "insertion", BLUE)):
        lines = gains[gains["area"] == area].set_index("map").loc[names]
        last.errorbar(
            lines["mean"],
            np.arange(len(names)) + offset,
            xerr=to_ends(lines, "mean", "ci_low", "ci_high"),
            fmt="o",
            color=colour,
            markersize=4,
        )
    last.xaxis.set_major_locator(MaxNLocator(4))
    last.axvline(0, linestyle=":", color=GREY)
    last.set_yticks(range(len(names)), names)
    last.set_ylim(len(names) - 0.5, -0.5)
    last.set(
        xlabel="area between the curve\nand random hiding\n(95 % interval by actor)",
        title="more than chance?",
    )
    entitle(figure, f"{title}; {study.extent}")
    return figure


@drawn
def localisation(study: "Study", survey: "Survey", title: str) -> Figure:
    """Each system's maps against the cue that drawn clips have, with intervals by actor."""
    table, title = survey.localisation, f"{title}\n{setting(study.settings)}"
    if table.empty:
        sentence = "No row with a map that says where was trained: params.yaml leaves them out."
        return nothing(sentence, title)
    kinds = [kind for kind in _KINDS if kind in set(table["map"])]
    labels = list(dict.fromkeys(table["label"]))
    size = (max(1.75 * len(kinds) + 2.4, 6), 0.26 * len(labels) + 1.5)
    figure, axes = plt.subplots(
        1, len(kinds), figsize=size, sharex=True, sharey=True, squeeze=False
    )
    for axis, kind in zip(axes[0], kinds, strict=True):
        lines = table[table["map"] == kind]
        position = [labels.index(label) for label in lines["label"]]
        ends = to_ends(lines, "lift", "ci_low", "ci_high")
        colour = BLUE if kind.endswith("face") else ORANGE
        axis.errorbar(lines["lift"], position, xerr=ends, fmt="o", color=colour, markersize=4)
        axis.axvline(1, linestyle=":", color=GREY)
        axis.set_title(kind.replace(", ", ",\n"), fontsize=8)
        axis.grid(axis="y", color=LIGHT_GREY, linewidth=0.5)
    axes[0, 0].set_yticks(range(len(labels)), labels)
    axes[0, 0].set_ylim(len(labels) - 0.5, -0.5)
    figure.supxlabel(
        "share of the map on the cue / share by chance (95 % interval by actor)", fontsize=9
    )
    entitle(figure, f"{title}; {study.extent}")
    return figure


@drawn
def reliance(study: "Study", row: str, survey: "Survey", title: str) -> Figure:
    """Accuracy of every system under every condition; below, how `row` and single ones decline."""
    table = survey.reliance
    conditions = list(dict.fromkeys(zip(table["condition"], table["level"].fillna(0), strict=True)))
    order = list(_CONDITIONS)
    conditions.sort(key=lambda found: order.index(found[0]))  # of one, levels stay in order
    labels = list(dict.fromkeys(table["label"]))
    cells = table.assign(level=table["level"].fillna(0)).pivot_table(
        index="label", columns=["condition", "level"], values="accuracy_pct", sort=False
    )
    cells = cells.reindex(index=labels, columns=pd.MultiIndex.from_tuples(conditions))
    names = [_CONDITIONS[name].format(level).replace("-", MINUS) for name, level in conditions]
    cells = cells.set_axis(names, axis="columns")
    figure, axes = plt.subplot_mosaic(
        [["all", "all"], ["noise", "dropped"]],
        figsize=(max(0.56 * len(conditions) + 2.6, 6.5), 0.27 * len(labels) + 5),
        height_ratios=[0.27 * len(labels) + 1.2, 2.4],
    )
    _accuracy_cells(axes["all"], cells)
    declining = dict.fromkeys([row, "video", "audio"])
    for name, condition, x in (
        ("noise", "audio noise", "signal-to-noise ratio of the sound, dB"),
        ("dropped", "frames dropped", "frames dropped, %"),
    ):
        axis = axes[name]
        for each, colour, marker in zip(declining, (VERMILLION, BLUE, GREEN), "os^", strict=False):
            lines = table[(table["row"] == each) & (table["condition"] == condition)]
            if lines.empty:
                continue
            axis.errorbar(
                lines["level"],
                lines["accuracy_pct"],
                yerr=to_ends(lines),
                marker=marker,
                color=colour,
                markersize=4,
                label=lines["label"].iloc[0],
            )
            intact = table[(table["row"] == each) & (table["condition"] == "intact")]
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
    entitle(figure, f"{title}\n{setting(study.settings)}; {study.extent}")
    return figure


def write_tables(survey: "Survey", effect: "Effect", folder: Path) -> None:
    """`modality_reliance.csv`, `localisation.csv`, `deletion.csv`, and `pointing.csv` if any."""
    tables = {
        "modality_reliance": survey.reliance,
        "localisation": survey.localisation,
        "deletion": effect.gains,
    }
    if not survey.pointing.empty:
        tables["pointing"] = survey.pointing
    for name, table in tables.items():
        path = folder / f"{name}.csv"
        table.to_csv(path, index=False, float_format="%.4f", lineterminator="\n")


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
        cells.columns.tolist(),
        rotation=40,
        ha="left",
        rotation_mode="anchor",
    )
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("accuracy, % of clips; empty where the system is given no such input")
