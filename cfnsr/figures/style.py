"""The style of all figures, and how they are saved; never imports torch."""

import io
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import ColorType, RcKeyType
from PIL import Image

from cfnsr.data.files import writing

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
    "figure.constrained_layout.use": True,
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
    """Set the figure's title; each of its lines that is longer than the figure is broken evenly."""
    width = int(_CHARACTERS_PER_INCH * figure.get_figwidth())
    lines = [part for line in title.splitlines() for part in _broken(line, width)]
    figure.suptitle("\n".join(lines), parse_math=False)  # a file's name may hold a $


def _broken(line: str, width: int) -> list[str]:
    """As few parts as the width allows, the longest as short as can be: no word stands alone.

    >>> _broken("neutral, actor 1, taken for calm", 30)
    ['neutral, actor 1,', 'taken for calm']
    """
    parts = textwrap.wrap(line, width, break_on_hyphens=False)
    for narrower in range(width - 1, 0, -1):
        tried = textwrap.wrap(line, narrower, break_long_words=False, break_on_hyphens=False)
        if len(tried) > len(parts) or max(map(len, tried), default=0) > narrower:
            return parts
        parts = tried
    return parts


@drawn
def nothing(sentence: str, title: str) -> Figure:
    """Says why there is no figure, in the figure's place."""
    figure, axis = plt.subplots(figsize=(6, 1.6))
    axis.axis("off")
    axis.text(0.5, 0.5, sentence, ha="center", va="center", color=GREY, wrap=True)
    entitle(figure, title)
    return figure


def to_ends(
    lines: pd.DataFrame,
    value: str = "accuracy_pct",
    low: str = "ci_low_pct",
    high: str = "ci_high_pct",
) -> np.ndarray:
    """How far intervals reach below and above their values, (2, line); nan without one."""
    values = lines[value].to_numpy(float)
    below, above = values - lines[low].to_numpy(float), lines[high].to_numpy(float) - values
    return np.maximum(np.stack([below, above]), 0)  # rounding


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
    """Write `<path>.svg` and `<path>.png`; equal figures give equal bytes.

    Raises:
        InputError: the disk is full or read-only.
    """
    drawn = io.BytesIO()
    style = {**STYLE, "svg.hashsalt": "cfnsr", "svg.fonttype": "path"}
    style["figure.constrained_layout.use"] = False  # everything has its place
    with plt.rc_context(style), writing(path):
        figure.savefig(f"{path}.svg", metadata={"Date": None, "Creator": None})
        figure.savefig(drawn, format="png", dpi=PNG_DPI, metadata={"Software": None})
    picture = Image.open(drawn).convert("RGB")
    if picture.getcolors(_FEW_COLOURS):  # not a photograph: a palette takes a third of the bytes
        picture = picture.quantize(256)
    with writing(path):
        picture.save(f"{path}.png", optimize=True, dpi=(PNG_DPI, PNG_DPI))
    return Saved(path)
