"""Figures of `cfnsr.own_clip.predict`: what the network said, and from window to window."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cfnsr.figures.style import BLUE, GREY, VERMILLION, drawn, entitle


@drawn
def bars(mean: pd.Series, title: str) -> Figure:
    """The probability of each emotion, and what a network that knows nothing would say.

    Args:
        mean: by emotion, over the clip's windows; the first is on top.
    """
    ordered = mean[::-1]
    figure, axis = plt.subplots(figsize=(5.6, 2.9))
    drawn_bars = axis.barh(ordered.index, ordered, color=BLUE)
    axis.bar_label(drawn_bars, fmt="%.3f", padding=3, fontsize=8)
    axis.axvline(1 / len(mean), color=GREY, linestyle=":", label="all emotions alike")
    axis.set(xlim=(0, 1.12), xticks=np.linspace(0, 1, 6), xlabel="probability")
    axis.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
    entitle(figure, title)
    return figure


@drawn
def timeline(table: pd.DataFrame, title: str) -> Figure:
    """Probabilities from window to window; a dot marks each window's most probable emotion.

    Where windows are left out the picture is grey.

    Args:
        table: start_s, end_s, emotion, probability; all emotions of a window together; two windows
            or more.
    """
    windows = table[["start_s", "end_s"]].drop_duplicates()
    emotions = table["emotion"].unique()
    probability = table["probability"].to_numpy().reshape(len(windows), len(emotions))
    middle_s = windows.mean(axis=1).to_numpy()
    half_step_s = np.median(np.diff(middle_s)) / 2
    edges_s, columns = [middle_s[0] - half_step_s], []
    for middle, column in zip(middle_s, probability, strict=True):
        if middle - edges_s[-1] > 2 * half_step_s:
            edges_s.append(middle - half_step_s)
            columns.append(np.full(len(emotions), np.nan))
        edges_s.append(middle + half_step_s)
        columns.append(column)
    figure, axis = plt.subplots(figsize=(8, 3.2))
    mesh = axis.pcolormesh(
        edges_s, np.arange(len(emotions) + 1), np.transpose(columns), cmap="Blues", vmin=0, vmax=1
    )
    axis.set_facecolor("0.8")
    axis.plot(
        middle_s,
        probability.argmax(axis=1) + 0.5,
        "o",
        color=VERMILLION,
        markersize=4,
        clip_on=False,  # in a long clip the windows are narrower than a dot
        label="most probable",
    )
    axis.set_yticks(np.arange(len(emotions)) + 0.5, emotions)
    axis.invert_yaxis()
    length_s = float((windows["end_s"] - windows["start_s"]).iloc[0])
    axis.set_xlabel(f"middle of the window of {length_s:.1f} s, s from the clip's start")
    axis.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
    figure.colorbar(mesh, ax=axis, pad=0.02).set_label("probability")
    entitle(figure, title)
    return figure
