"""Clips, trainings and one system's results as figures, in one style; never imports torch.

`cfnsr.comparisons` draws the figures that set systems side by side.
"""

import io
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import ColorType, RcKeyType
from PIL import Image

from cfnsr import evaluation
from cfnsr.audio import HOP
from cfnsr.params import Preprocess, Source
from cfnsr.runs import Run
from cfnsr.selection import Rule, best_epoch
from cfnsr.tables import DATA_LABELS

P = ParamSpec("P")

#: Okabe and Ito's colours, which colour-blind readers tell apart too.
BLUE, ORANGE, GREEN, VERMILLION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
GREY, LIGHT_GREY = "#666666", "#DDDDDD"
STYLE: dict[RcKeyType, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.titlesize": 10,
    "figure.dpi": 110,
    # Texts are a little wider at one resolution than at another.
    "figure.constrained_layout.w_pad": 0.1,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
PNG_DPI = 160
_FEW_COLOURS = 16_384
_CHARACTERS_PER_INCH = 12
MINUS = "\N{MINUS SIGN}"
#: Standardised MFCCs beyond this have the colour of the end, and the ticks of their bar say so.
LARGEST_Z = 3
Z_LABELS = (f"≤ {MINUS}{LARGEST_Z}", "0", f"≥ {LARGEST_Z}")
#: Of a reliability diagram's points, in square printer's points.
_SMALLEST_POINT, _LARGEST_POINT = 3.0, 90.0


def signed(value: float, n_digits: int) -> str:
    """A number as text, with its sign and a true minus.

    >>> signed(0.26, 1), signed(-0.001, 2)
    ('+0.3', '+0.00')
    """
    return f"{round(value, n_digits) + 0.0:+.{n_digits}f}".replace("-", MINUS)  # no negative zero


def drawn(function: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the project's style, and leave nothing open: a notebook shows the figure once.

    The layout's solver leaves the last bits of a place to chance, and an svg's ids depend on them,
    so places are rounded, and stay.
    """

    @wraps(function)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with plt.rc_context(STYLE):
            figure = function(*args, **kwargs)
            figure.draw_without_rendering()  # ticks take their style when they are drawn
            figure.set_layout_engine("none")
            for axis in figure.axes:
                place = axis.get_position(original=True).bounds
                axis.set_position(tuple(round(value, 6) for value in place))
                axis.set_in_layout(True)
        plt.close(figure)
        return figure

    return styled


def entitle(figure: Figure, title: str) -> None:
    """Set the figure's title, each of its lines broken where the figure ends."""
    width = int(_CHARACTERS_PER_INCH * figure.get_figwidth())
    figure.suptitle("\n".join(textwrap.fill(line, width) for line in title.splitlines()))


class _Epochs(MaxNLocator):
    """Whole numbers from 1 on: no epoch is numbered 0."""

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        ticks: list[float] = np.unique(np.maximum(super().tick_values(vmin, vmax), 1)).tolist()
        return ticks


def count_epochs(axis: Axes) -> None:
    """Whole numbers from 1 on the x axis, also where there is a single epoch."""
    axis.xaxis.set_major_locator(_Epochs("auto", integer=True, min_n_ticks=1))
    axis.set_xlabel("epoch")


def ink(background: ColorType) -> str:
    """Black or white, whichever stands out more (WCAG 2 contrast ratio).

    >>> ink("khaki"), ink("navy")
    ('black', 'white')
    """
    channels = np.array(to_rgb(background))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return "black" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "white"


def ink_cells(axis: Axes) -> None:
    """Give the numbers of a seaborn heatmap the ink that is read best on their cells."""
    mesh = next(part for part in axis.collections if isinstance(part, QuadMesh))
    mesh.update_scalarmappable()
    shape = np.asarray(mesh.get_array()).shape
    colours = np.asarray(mesh.get_facecolor()).reshape(*shape, 4)
    for text in axis.texts:
        column, line = map(int, text.get_position())
        text.set_color(ink(tuple(colours[line, column])))


@dataclass(frozen=True)
class Saved:
    """A figure in a file; as the last line of a notebook's cell it is shown as it was saved."""

    path: Path  # without suffix

    def __repr__(self) -> str:
        return f"<{self.path.name}.png>"  # no folder: equal notebooks have equal bytes anywhere

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        content = self.path.with_name(f"{self.path.name}.png").read_bytes()
        width, _ = Image.open(io.BytesIO(content)).size
        return content, {"width": round(width * STYLE["figure.dpi"] / PNG_DPI)}


def save(figure: Figure, path: Path) -> Saved:
    """Write `<path>.svg` and `<path>.png`; equal figures give equal bytes."""
    drawn = io.BytesIO()
    with plt.rc_context({**STYLE, "svg.hashsalt": "cfnsr", "svg.fonttype": "path"}):
        figure.savefig(f"{path}.svg", metadata={"Date": None, "Creator": None})
        figure.savefig(drawn, format="png", dpi=PNG_DPI, metadata={"Software": None})
    picture = Image.open(drawn).convert("RGB")
    if picture.getcolors(_FEW_COLOURS):  # not a photograph: a palette takes a third of the bytes
        picture = picture.quantize(256)
    picture.save(f"{path}.png", optimize=True, dpi=(PNG_DPI, PNG_DPI))
    return Saved(path)


@drawn
def faces(frames: np.ndarray, index: pd.DataFrame, n_clips: int, data: Source) -> Figure:
    """Some clips' pictures in order of time, one clip a line.

    Args:
        frames: uint8 (clip, frame, S, S, channel), 3 channels of RGB or 1.
        index: the clips' `actor` and `emotion` (its name), in the same order.
        n_clips: how many clips to show, see `spread`.
        data: the data source.
    """
    chosen = spread(index, n_clips)
    n_frames = frames.shape[1]
    # More pictures than this would be too small to see.
    shown = np.unique(np.linspace(0, n_frames - 1, min(n_frames, 10)).round().astype(int))
    figure, axes = plt.subplots(
        len(chosen),
        len(shown),
        figsize=(0.9 * len(shown) + 1.2, 0.95 * len(chosen) + 0.7),
        squeeze=False,
        layout="constrained",
    )
    for line, position in zip(axes, chosen, strict=True):
        for axis, frame in zip(line, shown, strict=True):
            picture = frames[position, frame]
            strokes = picture.shape[-1] == 1
            axis.imshow(picture[..., 0] if strokes else picture, "gray", vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        line[0].set_ylabel(_clip_label(index, position), rotation=0, ha="right", va="center")
    for axis, frame in zip(axes[-1], shown, strict=True):
        axis.set_xlabel(f"{frame + 1}")
    figure.supxlabel(f"frame, of {n_frames} spaced over the clip", fontsize=8)
    entitle(figure, f"Faces, {DATA_LABELS[data]}")
    return figure


@drawn
def sound(
    mfcc: np.ndarray, index: pd.DataFrame, n_clips: int, settings: Preprocess, data: Source
) -> Figure:
    """The MFCCs of the clips that `faces` shows, each coefficient standardised over all clips.

    Args:
        mfcc: (clip, coefficient, time).
        index: the clips' `actor` and `emotion` (its name), in the same order.
        n_clips: how many clips to show.
        settings: for the time of each vector.
        data: the data source.
    """
    chosen = spread(index, n_clips)
    _, n_coefficients, n_times = mfcc.shape
    mean = mfcc.mean(axis=(0, 2), dtype=np.float64)[:, None]
    sd = mfcc.std(axis=(0, 2), dtype=np.float64)[:, None]
    step_s = HOP / settings.sample_rate_hz
    start_s = settings.offset_s - step_s / 2  # a vector stands in the middle of its column
    figure, axes = plt.subplots(
        len(chosen),
        1,
        figsize=(8, 1.2 * len(chosen) + 0.8),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, position in zip(axes[:, 0], chosen, strict=True):
        image = axis.imshow(
            (mfcc[position] - mean) / np.maximum(sd, 1e-6),
            "RdBu_r",
            aspect="auto",
            origin="lower",
            interpolation="nearest",
            vmin=-LARGEST_Z,
            vmax=LARGEST_Z,
            extent=(start_s, start_s + n_times * step_s, 0.5, n_coefficients + 0.5),
        )
        axis.set_yticks(np.unique([1, (n_coefficients + 1) // 2, n_coefficients]))
        axis.set_ylabel("coefficient")
        axis.set_title(_clip_label(index, position, ", "), loc="left")
    axes[-1, 0].set_xlabel("time in the clip, s")
    bar = figure.colorbar(image, ax=axes[:, 0].tolist(), extend="both", aspect=30, pad=0.01)
    bar.set_ticks([-LARGEST_Z, 0, LARGEST_Z], labels=Z_LABELS)
    bar.set_label("standard deviations\nfrom the mean of all clips")
    entitle(figure, f"MFCCs, {DATA_LABELS[data]}")
    return figure


def spread(index: pd.DataFrame, n_clips: int) -> list[int]:
    """Positions of clips spread over the index, of actors and emotions as different as can be."""
    position = np.arange(len(index))
    chosen: list[int] = []
    for target in np.linspace(0, len(index) - 1, min(n_clips, len(index))):
        n_shown = [
            index[column].map(index[column].iloc[chosen].value_counts()).fillna(0)
            for column in ("emotion", "actor")
        ]
        keys = [np.abs(position - target), *n_shown, np.isin(position, chosen)]
        chosen.append(int(np.lexsort(keys)[0]))
    return sorted(chosen)


@drawn
def training_curves(runs: Sequence[Run], title: str) -> Figure:
    """Loss in training, and accuracy in training and on held-out actors, after each epoch.

    One line a run; a ring marks the epoch that `best test epoch` would report.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.1), layout="constrained")
    line = {"marker": ".", "markersize": 4, "linewidth": 1.2, "alpha": 1 if len(runs) == 1 else 0.6}
    for k, run in enumerate(runs):
        epoch = np.arange(1, run.n_epochs + 1)
        test = run.test.accuracy_pct
        curves = [("training", run.epochs["train_accuracy_pct"].to_numpy(), BLUE)]
        if run.validation is not None:
            curves.append(("validation actors", run.validation.accuracy_pct, GREEN))
        curves.append(("test actors", test, VERMILLION))
        hidden = "_" if k else ""  # one entry of the legend for all runs
        left.plot(epoch, run.epochs["train_loss"], color=BLUE, **line)
        for label, accuracy, colour in curves:
            right.plot(epoch, accuracy, color=colour, label=hidden + label, **line)
        best = int(best_epoch(test))
        right.plot(
            best,
            test[best - 1],
            "o",
            markersize=9,
            markerfacecolor="none",
            markeredgecolor=VERMILLION,
            label=f"{hidden}best test epoch",
        )
    left.set(ylabel="training loss", ylim=(0, None))
    right.set(ylabel="accuracy, % of clips", ylim=(0, 104))
    for axis in (left, right):
        count_epochs(axis)
    right.legend(loc="best")
    entitle(figure, title)
    return figure


@drawn
def confusion(runs: Sequence[Run], rule: Rule, title: str) -> Figure:
    """Which emotion is taken for which: the share of each true emotion, and the number of clips.

    Clips of all folds are counted together, and their mean over seeds is taken; a field without
    clips is empty.
    """
    counts = evaluation.confusion(runs, rule)
    share_pct = 100 * counts.div(counts.sum(axis=1), axis=0)
    text = share_pct.map("{:.0f} %\n".format) + counts.map("{:.0f}".format)
    figure, axis = plt.subplots(figsize=(6.6, 5.4), layout="constrained")
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
    curve = evaluation.reliability(runs, rule)
    ece = evaluation.score(runs, rule).ece
    filled = curve[curve["n"] > 0]
    figure, (above, below) = plt.subplots(
        2,
        1,
        figsize=(6, 5),
        sharex=True,
        height_ratios=[3, 1],
        layout="constrained",
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


def _clip_label(index: pd.DataFrame, position: int, separator: str = "\n") -> str:
    clip = index.iloc[position]
    return f"{clip['emotion']}{separator}actor {clip['actor']}"
