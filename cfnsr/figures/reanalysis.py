"""Figures of `cfnsr.reanalysis`; every title names its source."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from cfnsr.data.corpora.ravdess import CLIPS_PER_FOLD
from cfnsr.figures.results import RULE_COLOURS
from cfnsr.figures.style import (
    BLUE,
    GREY,
    LIGHT_GREY,
    ORANGE,
    VERMILLION,
    count_epochs,
    drawn,
    entitle,
    to_ends,
)
from cfnsr.models.registry import REFERENCE, TABLE_1, find
from cfnsr.reanalysis.printed import N_CLIPS, N_CLIPS_TESTED
from cfnsr.reanalysis.released_log import LOG_RULES, LogRule, chosen_epochs

PAPER = "as reported in the paper, RAVDESS"
LOG = "authors' released log, RAVDESS, 5 folds"
COLOURS = RULE_COLOURS | {"best common epoch": VERMILLION}
#: Shapes and sizes, so that marks on the same epoch stand around each other.
_MARKERS = dict(zip(LOG_RULES, [("o", 10), ("s", 7), ("D", 5), (".", 8)], strict=True))


@drawn
def possible_accuracies(table: pd.DataFrame) -> Figure:
    """`printed.possible_rows` as a matrix, with the number of clips where there is one."""
    columns = {"possible_of_1440": N_CLIPS, "possible_of_1200": N_CLIPS_TESTED}
    accuracy = table["accuracy_pct"].to_numpy()
    possible = table[list(columns)].to_numpy(bool)
    counts = np.round(accuracy[:, None] * list(columns.values()) / 100).astype(int)
    words = np.where(possible, counts.astype(str), "no")
    labels = [
        f"{find(row).label}  {value:.2f}" for row, value in zip(table["row"], accuracy, strict=True)
    ]
    figure, axis = plt.subplots(figsize=(5.6, 0.27 * len(table) + 1.4))
    sns.heatmap(
        possible.astype(int),
        annot=words,
        fmt="",
        annot_kws={"fontsize": 8, "color": "black"},
        cmap=ListedColormap(["#F2F2F2", "#56B4E9"]),
        vmin=0,
        vmax=1,
        linewidths=0.5,
        cbar=False,
        xticklabels=[f"of {n:,} clips\n({n // CLIPS_PER_FOLD} folds)" for n in columns.values()],
        yticklabels=labels,
        ax=axis,
    )
    n_first = int((table["table"] == 1).sum())
    axis.axhline(n_first, color="black", linewidth=1)
    for name, position in (("Table 1", 0), ("Table 2", n_first)):
        axis.annotate(name, (1.02, position + 0.5), xycoords=("axes fraction", "data"), va="center")
    axis.tick_params(length=0)
    axis.tick_params(axis="y", rotation=0)
    entitle(figure, f"Which printed accuracies are a whole number of clips\n{PAPER}")
    return figure


@drawn
def selection_rules(
    rules: pd.DataFrame, gain: pd.DataFrame, ties: pd.DataFrame, mean_pct: float
) -> Figure:
    """What each rule reports of the same training, before what chance alone would give it.

    Args:
        rules: `released_log.selection_rules`.
        gain: `released_log.choosing_gain`.
        ties: `released_log.ties_on_other_folds`; the earliest epoch's mean is a ring.
        mean_pct: accuracy averaged over folds and epochs.
    """
    height = np.arange(len(rules))
    figure, axis = plt.subplots(figsize=(7.5, 2.9))
    low, high = (mean_pct + gain[f"jumps_{end}_points"] for end in ("low", "high"))
    axis.barh(
        height,
        high - low,
        0.5,
        left=low,
        color=LIGHT_GREY,
        label="95 % of simulated logs, all epochs equally good",
    )
    axis.axvline(mean_pct, color=GREY, linestyle=":", label="mean of all epochs")
    printed = find(REFERENCE).paper_accuracy_pct
    axis.axvline(printed or np.nan, color="black", linestyle="--", label="printed in the paper")
    labels = []
    for y, rule, value in zip(height, rules["rule"], rules["accuracy_pct"], strict=True):
        axis.plot(value, y, "o", color=COLOURS[rule], markersize=8)
        labels.append(f"{rule}  {value:.2f}")
    on_others = rules["rule"].tolist().index("chosen on other folds")
    axis.plot(
        ties["mean_accuracy_pct"].iloc[0],
        on_others,
        "o",
        markersize=8,
        color=COLOURS["chosen on other folds"],
        markerfacecolor="none",
        label="if a tie goes to the earlier epoch",
    )
    axis.set_yticks(height, labels)
    axis.set_ylim(len(rules) - 0.5, -0.5)
    axis.use_sticky_edges = False  # else the axis starts where the longest bar does
    axis.autoscale(axis="x")
    axis.set_xlabel("accuracy, % of clips, mean of folds")
    axis.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=2)
    entitle(figure, f"One training, four accuracies\n{LOG}")
    return figure


@drawn
def log_curves(accuracy: np.ndarray) -> Figure:
    """Test accuracy after each epoch, a panel a fold and one for their mean, with chosen epochs.

    Args:
        accuracy: in percent, (fold, epoch).
    """
    n_folds, n_epochs = accuracy.shape
    of_fold: Sequence[LogRule] = ("best test epoch", "chosen on other folds", "last epoch")
    of_mean: Sequence[LogRule] = ("best common epoch", "last epoch")
    figure, panels = plt.subplots(2, 3, figsize=(8, 4.4), sharex=True, sharey=True)
    curves = [(f"fold {k + 1}", line, of_fold, k) for k, line in enumerate(accuracy)]
    curves.append((f"mean of {n_folds} folds", accuracy.mean(axis=0), of_mean, 0))
    marks = {}
    for axis, (name, curve, rules, fold) in zip(panels.flat, curves, strict=True):
        axis.plot(np.arange(1, n_epochs + 1), curve, color=GREY, linewidth=0.9)
        for rule in rules:
            epoch = chosen_epochs(accuracy, rule)[fold]
            shape, size = _MARKERS[rule]
            filled = COLOURS[rule] if rule == "last epoch" else "none"
            (marks[rule],) = axis.plot(
                epoch,
                curve[epoch - 1],
                shape,
                color=COLOURS[rule],
                markersize=size,
                markerfacecolor=filled,
                markeredgewidth=1.6,
                linestyle="none",
            )
        axis.margins(y=0.1)  # room for the marks
        axis.set_title(name)
        count_epochs(axis)
    for axis in panels[0]:
        axis.set_xlabel("")
    for axis in panels[:, 0]:
        axis.set_ylabel("accuracy, % of clips")
    rules = [rule for rule in _MARKERS if rule in marks]
    figure.legend(
        [marks[rule] for rule in rules], rules, loc="outside lower center", ncols=len(rules)
    )
    entitle(figure, f"Test accuracy jumps from epoch to epoch\n{LOG}")
    return figure


@drawn
def resolution(table: pd.DataFrame, found_points: float) -> Figure:
    """`printed.resolution`: each accuracy with its interval, and whether it is CFN-SR's.

    Args:
        found_points: the smallest true difference that an unpaired test finds in 80 % of samples.
    """
    rows = table["row"].tolist()
    height = np.arange(len(rows)) + 0.6 * ~np.isin(rows, list(TABLE_1))
    own = table.loc[table["row"] == REFERENCE, "accuracy_pct"].item()
    resolved = table["resolved_from_cfn_sr"].to_numpy(bool)
    is_own = (table["row"] == REFERENCE).to_numpy()
    figure, axis = plt.subplots(figsize=(7.5, 0.29 * len(rows) + 1.9))
    axis.axvspan(
        own - found_points,
        own,
        color=LIGHT_GREY,
        linewidth=0,
        label="differences too small to be found in 80 % of tests",
    )
    for lines, shape, colour, label in (
        (resolved, "o", BLUE, "differs from CFN-SR, p < 0.05"),
        (~resolved & ~is_own, "s", ORANGE, "not told apart from CFN-SR"),
        (is_own, "D", "black", find(REFERENCE).label),
    ):
        axis.errorbar(
            table["accuracy_pct"][lines],
            height[lines],
            xerr=to_ends(table[lines]),
            fmt=shape,
            color=colour,
            markersize=5,
            label=label,
        )
    axis.set_yticks(height, [find(row).label for row in rows])
    axis.set_ylim(height[-1] + 0.6, -0.6)
    axis.set_xlabel(f"accuracy, % of clips (95 % Wilson interval of {N_CLIPS:,} independent clips)")
    axis.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=2)
    entitle(figure, f"Which accuracies can be told apart from CFN-SR's\n{PAPER}")
    return figure
