"""What trainings and systems came to, each alone and side by side.

Every title's last line is the data source and protocol, see `tables.setting`.
"""

from collections.abc import Mapping, Sequence
from math import ceil
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, NullFormatter

from cfnsr.evaluation import scores
from cfnsr.evaluation.scores import per_epoch
from cfnsr.evaluation.selection import RULES, Rule, best_epoch, with_epochs
from cfnsr.evaluation.tables import (
    PAPER_RULE,
    PROTOCOL_LABELS,
    TEST_RULE,
    reduced_size,
    row_ceilings,
)
from cfnsr.evaluation.typeset import MINUS
from cfnsr.figures.style import (
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
    ink_cells,
    nothing,
    to_ends,
)
from cfnsr.models.registry import find
from cfnsr.training.runs import Run

RULE_COLOURS: dict[Rule, str] = dict(zip(RULES, (ORANGE, BLUE, GREEN, PURPLE), strict=True))
_RULE_MARKS: dict[Rule, str] = dict(zip(RULES, "os^v", strict=True))
_SIZES = {
    "n_parameters": "parameters\nof the model trained here",
    "forward_flops": "operations\nof one clip's forward pass",
}
_STAGES = {"-": ("o", GREY), "Early": ("s", GREEN), "Late": ("^", PURPLE), "Model": ("D", BLUE)}
#: Of `scores.win_matrix`: sign, colour and words.
_OUTCOMES = {
    -1: (MINUS, ORANGE, "left is worse"),
    0: ("", "#F2F2F2", "no difference found"),
    1: ("+", "#56B4E9", "left is better"),
}
#: Of a reliability diagram's points, in square printer's points.
_SMALLEST_POINT, _LARGEST_POINT = 3.0, 90.0
_N_PANELS_A_LINE = 4
_CHARACTERS_A_PANEL = 24
_CHARACTERS_A_LABEL = 30


def with_seeds(name: str, n_seeds: int) -> str:
    """A row's label, and of how many seeds its numbers are the mean if it is of several."""
    label = find(name).label
    return f"{label}, {n_seeds}\N{NO-BREAK SPACE}seeds" if n_seeds > 1 else label


@drawn
def accuracy(table: pd.DataFrame, ceilings: pd.DataFrame, title: str) -> Figure:
    """Each row's accuracy under each rule with its interval, and the paper's number.

    The paper's stands on the line of the rule that its code follows. Light bars reach to the best
    possible accuracy where it is known, a dotted line is chance. Where the networks are smaller
    than the paper's, the title says so.
    """
    rows = list(dict.fromkeys(table["row"]))
    rules = [rule for rule in RULES if rule in set(table["rule"])]
    first = table.drop_duplicates("row")
    position = np.arange(len(rows))
    figure, axis = plt.subplots(figsize=(7.5, 0.42 * len(rows) + 1.5))
    ceiling = row_ceilings(first, ceilings)
    if ceiling.notna().any():
        axis.barh(position, ceiling, 0.86, color=LIGHT_GREY, label="best possible accuracy")
    chance_pct = ceilings["chance_pct"].max()
    axis.axvline(chance_pct, linestyle=":", color=GREY, label=f"chance, {chance_pct:.1f} %")
    # Within a line of height 1.
    offsets = {rule: 0.2 * (i - (len(rules) - 1) / 2) for i, rule in enumerate(rules)}
    for rule, offset in offsets.items():
        lines = table[table["rule"] == rule]
        axis.errorbar(
            lines["accuracy_pct"],
            [rows.index(row) + offset for row in lines["row"]],
            xerr=to_ends(lines),
            fmt=_RULE_MARKS[rule],
            color=RULE_COLOURS[rule],
            markersize=4,
            linewidth=1,
            label=rule,
        )
    axis.plot(
        first["paper_accuracy_pct"].astype(float),
        position + offsets.get(PAPER_RULE, 0),
        "D",
        color="black",
        markerfacecolor="none",
        markersize=5,
        label=f"paper, on RAVDESS ({PAPER_RULE})",
    )
    n_seeds = table.groupby("row")["n_seeds"].max()
    axis.set_yticks(position, [with_seeds(name, n_seeds[name]) for name in rows])
    axis.set(xlabel="accuracy, % of clips (95 % interval by actor)", xlim=(0, 100))
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=3)
    entitle(figure, "\n".join(filter(None, [title, reduced_size(table)])))
    return figure


@drawn
def fold_heatmap(runs_by_row: Mapping[str, Sequence[Run]], rule: Rule, title: str) -> Figure:
    """Each row's accuracy on each fold, mean over seeds: how much its few actors matter."""
    lines = pd.DataFrame(
        [
            (name, run.fold, run.test.accuracy_pct[epoch - 1])
            for name, runs in runs_by_row.items()
            for run, epoch in with_epochs(runs, rule)
        ],
        columns=["row", "fold", "accuracy_pct"],
    )
    means = lines.pivot_table(index="row", columns="fold", values="accuracy_pct", sort=False)
    n_seeds = {name: len({run.seed for run in runs}) for name, runs in runs_by_row.items()}
    means = means.sort_index(axis=1).rename(index=lambda name: with_seeds(name, n_seeds[name]))
    size = (0.7 * max(means.shape[1], 4) + 3, 0.34 * len(means) + 1.5)
    people = sorted({len(of_fold) for of_fold in next(iter(runs_by_row.values()))[0].corpus.groups})
    n_people = "four" if people == [4] else " to ".join(map(str, people))
    figure, axis = plt.subplots(figsize=size)
    sns.heatmap(
        means,
        annot=True,
        fmt=".1f",
        cmap="cividis",
        linewidths=0.5,
        cbar_kws={"label": "accuracy, % of clips"},
        ax=axis,
    )
    ink_cells(axis)
    axis.set(xlabel=f"fold ({n_people} test actors each)", ylabel="")
    axis.tick_params(length=0, rotation=0)
    entitle(figure, title)
    return figure


@drawn
def curves(runs_by_row: Mapping[str, Sequence[Run]], title: str) -> Figure:
    """Each row's test accuracy after each epoch: mean and standard deviation over runs.

    A ring marks the mean's best epoch, a dot its last. A row without epochs is a line.
    """
    n_columns = min(_N_PANELS_A_LINE, len(runs_by_row))
    n_lines = ceil(len(runs_by_row) / n_columns)
    figure, panels = plt.subplots(
        n_lines,
        n_columns,
        figsize=(max(2.1 * n_columns, 5), 1.7 * n_lines + 1),
        sharey=True,
        squeeze=False,
    )
    for k, (name, runs) in enumerate(runs_by_row.items()):
        axis = panels.flat[k]
        label = with_seeds(name, len({run.seed for run in runs}))
        axis.set_title(fill(label, _CHARACTERS_A_PANEL, break_on_hyphens=False))
        curve = per_epoch(runs)
        epoch, mean = curve["epoch"].to_numpy(), curve["accuracy_pct"].to_numpy()
        sd = curve["sd_pct"].fillna(0).to_numpy()
        band = {"color": BLUE, "alpha": 0.2, "linewidth": 0}
        if find(name).schedule == "none":
            axis.axhspan(mean[0] - sd[0], mean[0] + sd[0], **band)
            axis.axhline(mean[0], color=BLUE)
            axis.set(xticks=[], xlabel="no epochs")
        else:
            best = best_epoch(mean) - 1
            axis.fill_between(epoch, mean - sd, mean + sd, **band)
            axis.plot(epoch, mean, color=BLUE)
            ring = {"markerfacecolor": "none", "markersize": 8, "color": VERMILLION}
            axis.plot(epoch[best], mean[best], "o", label="best epoch of the mean", **ring)
            axis.plot(epoch[-1], mean[-1], "o", color=BLUE, markersize=4, label="last epoch")
            count_epochs(axis)
            if k + n_columns < len(runs_by_row):
                axis.set_xlabel("")  # the panel below has it
        if k % n_columns == 0:
            axis.set_ylabel("accuracy, % of clips")
    for axis in panels.flat[len(runs_by_row) :]:
        axis.set_axis_off()
    marks = {
        label: mark
        for axis in panels.flat
        for mark, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(marks.values(), marks, loc="outside lower center", ncols=2)
    entitle(figure, title)
    return figure


@drawn
def accuracy_against_size(table: pd.DataFrame, title: str) -> Figure:
    """Accuracy after the last epoch, parameters and operations, the best row first."""
    lines = table[table["rule"] == TEST_RULE].sort_values(
        "accuracy_pct", ascending=False, kind="stable", ignore_index=True
    )
    lines = lines.assign(forward_flops=1e9 * lines["forward_gflops"].astype(float))
    figure, panels = plt.subplots(
        1, 3, figsize=(2.6 * 3 + 1.8, 0.22 * len(lines) + 1.9), sharey=True
    )
    for stage, (shape, colour) in _STAGES.items():
        of_stage = lines[lines["fusion_stage"] == stage]
        mark = {"fmt": shape, "color": colour, "markersize": 4.5, "elinewidth": 1}
        label = "one modality" if stage == "-" else f"{stage.lower()} fusion"
        accuracy_pct = of_stage["accuracy_pct"]
        panels[0].errorbar(
            accuracy_pct, of_stage.index, xerr=to_ends(of_stage), label=label, **mark
        )
        for axis, column in zip(panels[1:], _SIZES, strict=True):
            axis.errorbar(of_stage[column], of_stage.index, **mark)
    panels[0].set_xlabel("accuracy after the last epoch, % of clips\n(95 % interval by actor)")
    panels[0].set_yticks(lines.index, lines["label"])
    panels[0].invert_yaxis()
    for axis, label in zip(panels[1:], _SIZES.values(), strict=True):
        axis.set(xscale="log", xlabel=label)
        axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axis.xaxis.set_minor_formatter(NullFormatter())
    for axis in panels:
        axis.grid(axis="y", color=LIGHT_GREY, linewidth=0.6)
        axis.tick_params(axis="y", length=0)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    entitle(figure, title)
    return figure


@drawn
def wins(matrix: pd.DataFrame, title: str) -> Figure:
    """`scores.win_matrix`: whether the line's row beats the column's."""
    if matrix.empty:
        return nothing("fewer than two systems", title)
    labels = [find(str(name)).label for name in matrix.index]
    side = 0.26 * len(labels) + 2.6
    figure, axis = plt.subplots(figsize=(max(side, 5), side))
    colours = [colour for _, colour, _ in _OUTCOMES.values()]
    axis.imshow(matrix, ListedColormap(colours), vmin=-1, vmax=1)
    for line, column in np.argwhere(matrix.notna().to_numpy()):
        sign, _, _ = _OUTCOMES[matrix.iloc[line, column]]
        axis.text(column, line, sign, ha="center", va="center", fontsize=8)
    ticks = np.arange(len(labels))
    axis.set_xticks(ticks, labels, rotation=90)
    axis.set_yticks(ticks, labels)
    axis.set_xticks(ticks[1:] - 0.5, minor=True)
    axis.set_yticks(ticks[1:] - 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=1.5)
    axis.spines[:].set_visible(False)
    patches = [
        Patch(facecolor=colour, label=f"{sign} {word}".strip())
        for sign, colour, word in _OUTCOMES.values()
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=3)
    axis.set(xlabel="compared with", ylabel="")
    axis.tick_params(which="both", length=0)
    entitle(figure, title)
    return figure


@drawn
def confusion(runs: Sequence[Run], rule: Rule, title: str) -> Figure:
    """Which emotion is taken for which: the share of each true emotion, and the number of clips.

    Clips of all folds are counted together, and their mean over seeds is taken; a field without
    clips is empty.
    """
    counts = scores.confusion(scores.outcomes(runs, rule), runs[0].corpus.emotions)
    share_pct = 100 * counts.div(counts.sum(axis=1), axis=0)
    text = share_pct.map("{:.0f} %\n".format) + counts.map("{:.0f}".format)
    figure, axis = plt.subplots(figsize=(6.6, 5.4))
    sns.heatmap(
        share_pct,
        annot=text.where(counts > 0, "").to_numpy(),
        fmt="",
        annot_kws={"fontsize": 7},
        cmap="Blues",
        vmin=0,
        vmax=100,
        linewidths=0.5,
        cbar_kws={"label": "% of the true emotion's clips"},
        ax=axis,
    )
    ink_cells(axis)
    axis.set(xlabel="predicted emotion", ylabel="true emotion")
    axis.tick_params(length=0, rotation=0)
    axis.tick_params(axis="x", rotation=30)
    entitle(figure, title)
    return figure


@drawn
def reliability(runs: Sequence[Run], rule: Rule, title: str) -> Figure:
    """How often a system is right, against how sure it says it is; below, how many clips.

    On the dotted line it is right as often as it says. A point's area is the number of clips (mean
    over seeds): few clips are uncertain.
    """
    curve = scores.reliability(scores.outcomes(runs, rule))
    ece = scores.score(runs, rule).ece
    filled = curve[curve["n"] > 0]
    figure, (above, below) = plt.subplots(
        2,
        1,
        figsize=(6, 5),
        sharex=True,
        height_ratios=[3, 1],
    )
    above.plot([0, 100], [0, 100], ":", color=GREY, label="as often as it says")
    points = 100 * filled["confidence"], 100 * filled["accuracy"]
    above.plot(*points, color=BLUE, linewidth=0.8)
    above.scatter(
        *points,
        s=np.maximum(_LARGEST_POINT * filled["n"] / filled["n"].max(), _SMALLEST_POINT),
        color=BLUE,
        label="measured, area by clips",
        clip_on=False,  # a point at 100 % is whole
        zorder=3,
    )
    above.set(ylabel="accuracy, % of the bin's clips", ylim=(-4, 104))
    above.legend(loc="upper left", title=f"expected calibration error {100 * ece:.1f} %")
    below.bar(
        100 * curve["low"],
        curve["n"],
        width=100 * (curve["high"] - curve["low"]),
        align="edge",
        color=BLUE,
        edgecolor="white",
    )
    below.set(xlabel="confidence in the predicted emotion, %", ylabel="clips", xlim=(0, 100))
    entitle(figure, title)
    return figure


@drawn
def block_gains(table: pd.DataFrame, title: str) -> Figure:
    """What the cross-modal blocks add on each data source, beside what any system could reach.

    Args:
        table: of `cfnsr.evaluation.gains.block_gains`.
    """
    position = np.arange(len(table))
    figure, (left, right) = plt.subplots(
        1,
        2,
        figsize=(9, 0.62 * len(table) + 2.2),
        sharey=True,
        width_ratios=[3, 2],
    )
    left.barh(position, table["ceiling_pct"], 0.7, color=LIGHT_GREY, label="best possible")
    left.vlines(
        table["additive_ceiling_pct"],
        position - 0.35,
        position + 0.35,
        color=GREY,
        label="best possible by adding up face and voice",
    )
    for which, text, colour, offset in (
        ("without", "without cross-modal blocks", ORANGE, -0.14),
        ("with", "CFN-SR", BLUE, 0.14),
    ):
        names = [f"{name}_{which}" for name in ("accuracy_pct", "ci_low_pct", "ci_high_pct")]
        left.errorbar(
            table[names[0]],
            position + offset,
            xerr=to_ends(table, *names),
            fmt="o",
            color=colour,
            markersize=5,
            label=text,
        )
    left.set(xlabel="accuracy, % of clips", xlim=(0, 100))
    labels = [
        fill(f"{label}, {PROTOCOL_LABELS[protocol]}", _CHARACTERS_A_LABEL, break_on_hyphens=False)
        for label, protocol in zip(table["label"], table["protocol"], strict=True)
    ]
    left.set_yticks(position, labels)
    left.set_ylim(len(table) - 0.5, -0.5)
    figure.legend(loc="outside lower center", ncols=4)
    gain, ends = table["difference_pct"], to_ends(table, "difference_pct")
    right.errorbar(gain, position, xerr=ends, fmt="D", color=BLUE, markersize=5)
    right.axvline(0, color=GREY, linestyle=":")
    right.set_xlabel("gain of the blocks, points")
    entitle(figure, title)
    return figure
