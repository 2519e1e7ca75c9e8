"""Figures that set the systems side by side, in the style of `cfnsr.figures`.

Every title's last line is the data source and protocol, see `tables.setting`.
"""

from collections.abc import Mapping, Sequence
from math import ceil

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from cfnsr.evaluation import per_epoch
from cfnsr.figures import (
    BLUE,
    GREEN,
    GREY,
    LIGHT_GREY,
    ORANGE,
    PURPLE,
    VERMILLION,
    count_epochs,
    drawn,
    entitle,
)
from cfnsr.models.registry import find
from cfnsr.runs import Run
from cfnsr.selection import RULES, Rule, accuracy_by_epoch, best_epoch, with_epochs
from cfnsr.tables import TEST_RULE, row_ceilings

RULE_COLOURS: dict[Rule, str] = dict(zip(RULES, (ORANGE, BLUE, GREEN, PURPLE), strict=True))
_N_PANELS_A_LINE = 4


@drawn
def accuracy(table: pd.DataFrame, ceilings: pd.DataFrame, title: str) -> Figure:
    """Each row's accuracy under each rule with its interval, the paper's number beside it.

    Light bars reach to the best possible accuracy where it is known, a dotted line is chance.
    """
    rows = list(dict.fromkeys(table["row"]))
    rules = [rule for rule in RULES if rule in set(table["rule"])]
    first = table.drop_duplicates("row")
    position = np.arange(len(rows))
    figure, axis = plt.subplots(figsize=(7.5, 0.42 * len(rows) + 1.5), layout="constrained")
    ceiling = row_ceilings(first, ceilings)
    if ceiling.notna().any():
        axis.barh(position, ceiling, 0.86, color=LIGHT_GREY, label="best possible accuracy")
    chance_pct = ceilings["chance_pct"].max()
    axis.axvline(chance_pct, linestyle=":", color=GREY, label=f"chance, {chance_pct:.1f} %")
    for offset, rule in zip(_offsets(len(rules)), rules, strict=True):
        lines = table[table["rule"] == rule]
        axis.errorbar(
            lines["accuracy_pct"],
            [rows.index(row) + offset for row in lines["row"]],
            xerr=_to_ends(lines),
            fmt="o",
            color=RULE_COLOURS[rule],
            markersize=4,
            linewidth=1,
            label=rule,
        )
    axis.plot(
        first["paper_accuracy_pct"].astype(float),
        position,
        "D",
        color="black",
        markerfacecolor="none",
        markersize=5,
        label="paper, on RAVDESS",
    )
    axis.set_yticks(position, first["label"].tolist())
    axis.set(xlabel="accuracy, % of clips (95 % interval by actor)", xlim=(0, 100))
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=3)
    entitle(figure, title)
    return figure


@drawn
def fold_heatmap(runs_by_row: Mapping[str, Sequence[Run]], rule: Rule, title: str) -> Figure:
    """Each row's accuracy on each fold, mean over seeds: how much four actors matter."""
    lines = pd.DataFrame(
        [
            (name, run.fold, accuracy_by_epoch(run.test)[epoch - 1])
            for name, runs in runs_by_row.items()
            for run, epoch in with_epochs(runs, rule)
        ],
        columns=["row", "fold", "accuracy_pct"],
    )
    means = lines.pivot_table(index="row", columns="fold", values="accuracy_pct", sort=False)
    means = means.sort_index(axis=1).rename(index=lambda name: find(name).label)
    size = (0.7 * max(means.shape[1], 4) + 3, 0.34 * len(means) + 1.5)
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    if not means.empty:
        sns.heatmap(
            means,
            annot=True,
            fmt=".1f",
            cmap="cividis",
            linewidths=0.5,
            cbar_kws={"label": "accuracy, % of clips"},
            ax=axis,
        )
    axis.set(xlabel="fold (four test actors each)", ylabel="")
    axis.tick_params(length=0, rotation=0)
    entitle(figure, title)
    return figure


@drawn
def curves(runs_by_row: Mapping[str, Sequence[Run]], title: str) -> Figure:
    """Each row's test accuracy after each epoch: mean and standard deviation over folds.

    A ring marks the mean's best epoch, a dot its last.
    """
    n_columns = min(_N_PANELS_A_LINE, max(len(runs_by_row), 1))
    n_lines = max(ceil(len(runs_by_row) / n_columns), 1)
    figure, panels = plt.subplots(
        n_lines,
        n_columns,
        figsize=(max(2.1 * n_columns, 5), 1.7 * n_lines + 1),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for k, (name, runs) in enumerate(runs_by_row.items()):
        axis = panels.flat[k]
        curve = per_epoch(runs)
        epoch, mean = curve["epoch"].to_numpy(), curve["accuracy_pct"].to_numpy()
        sd = curve["sd_pct"].fillna(0).to_numpy()
        best = best_epoch(mean) - 1
        axis.fill_between(epoch, mean - sd, mean + sd, color=BLUE, alpha=0.2, linewidth=0)
        axis.plot(epoch, mean, color=BLUE)
        ring = {"markerfacecolor": "none", "markersize": 8, "color": VERMILLION}
        axis.plot(epoch[best], mean[best], "o", label="best epoch of the mean", **ring)
        axis.plot(epoch[-1], mean[-1], "o", color=BLUE, markersize=4, label="last epoch")
        axis.set_title(find(name).label)
        count_epochs(axis)
        if k % n_columns == 0:
            axis.set_ylabel("accuracy, % of clips")
        if k + n_columns < len(runs_by_row):
            axis.set_xlabel("")  # the panel below has it
    for axis in panels.flat[len(runs_by_row) :]:
        axis.set_axis_off()
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    entitle(figure, title)
    return figure


@drawn
def accuracy_against_parameters(table: pd.DataFrame, title: str) -> Figure:
    """Accuracy after the last epoch against the number of parameters trained here."""
    lines = table[table["rule"] == TEST_RULE].sort_values("accuracy_pct", kind="stable")
    accuracy = lines["accuracy_pct"].to_numpy(float)
    figure, axis = plt.subplots(figsize=(7.5, 0.2 * len(lines) + 2.6), layout="constrained")
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.errorbar(
        lines["n_parameters"],
        accuracy,
        yerr=_to_ends(lines),
        fmt="o",
        color=RULE_COLOURS[TEST_RULE],
        markersize=4,
        linewidth=0.7,
    )
    if n := lines["n_parameters"].tolist():
        axis.set_xlim(min(n) / 1.5, max(n) * 1.5)  # one row alone has no range
    axis.set(
        xlabel="parameters of the model trained here",
        ylabel="accuracy after the last epoch, % of clips\n(95 % interval by actor)",
    )
    leader = {"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "relpos": (0, 0.5)}
    low, high = axis.get_ylim()
    heights = _apart(accuracy, low, high)
    for line, height in zip(lines.itertuples(), heights, strict=True):
        axis.annotate(
            str(line.label),
            (float(str(line.n_parameters)), float(str(line.accuracy_pct))),
            (1.03, (height - low) / (high - low)),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            arrowprops=leader,
        )
    entitle(figure, title)
    return figure


@drawn
def wins(matrix: pd.DataFrame, title: str) -> Figure:
    """`evaluation.win_matrix`: whether the line's row beats the column's."""
    labels = [find(str(name)).label for name in matrix.index]
    words = matrix.map({1.0: "win", 0.0: "tie", -1.0: "loss"}.get).fillna("")
    side = 0.42 * len(labels) + 2.6
    figure, axis = plt.subplots(figsize=(max(side, 4.5), side), layout="constrained")
    if matrix.empty:
        axis.text(0.5, 0.5, "fewer than two systems", ha="center", va="center")
        axis.set(xticks=[], yticks=[])
    else:
        sns.heatmap(
            matrix,
            annot=words.to_numpy(),
            fmt="",
            annot_kws={"fontsize": 7, "color": "black"},
            cmap=ListedColormap([ORANGE, "#F2F2F2", "#56B4E9"]),
            vmin=-1,
            vmax=1,
            linewidths=0.5,
            square=True,
            cbar=False,
            xticklabels=labels,
            yticklabels=labels,
            ax=axis,
        )
    axis.set(xlabel="against", ylabel="")
    axis.tick_params(length=0)
    axis.tick_params(axis="x", rotation=90)
    axis.tick_params(axis="y", rotation=0)
    entitle(figure, title)
    return figure


def _offsets(n: int) -> np.ndarray:
    """Where n points stand within a line of height 1."""
    return 0.2 * (np.arange(n) - (n - 1) / 2)


def _to_ends(lines: pd.DataFrame) -> np.ndarray:
    """How far the interval reaches below and above the accuracy, (2, line); nan without one."""
    accuracy = lines["accuracy_pct"].to_numpy(float)
    below = accuracy - lines["ci_low_pct"].to_numpy(float)
    above = lines["ci_high_pct"].to_numpy(float) - accuracy
    return np.maximum(np.stack([below, above]), 0)  # rounding


def _apart(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Heights between low and high near ascending values, far enough apart for a label each."""
    gap = (high - low) / max(len(values), 12)
    heights = values.copy()
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    if len(heights):
        heights[-1] = min(heights[-1], high)
    for i in range(len(heights) - 2, -1, -1):
        heights[i] = min(heights[i], heights[i + 1] - gap)
    return heights
