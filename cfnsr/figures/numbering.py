"""Numbers beside the points of a figure, in columns where points stand close together."""

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression

# All in printer's points, 1/72 inch.
_FONT_SIZE = 6.5
_LINE_HEIGHT = 7.5
_FROM_POINTS = 15
#: Points farther apart than this have columns of their own.
_GAP = 28


def number_points(axis: Axes, x: ArrayLike, y: ArrayLike, numbers: ArrayLike) -> None:
    """Write each point's number beside it, and lead a line from one to the other.

    Of points close together, the left half is numbered in a column on their left and the others
    on their right, in order of height, so that lines hardly cross. The places depend on the
    layout, so the figure must have been drawn once.

    Args:
        axis: where the points are.
        x, y: the points, in data coordinates, (point,).
        numbers: what to write, (point,).
    """
    words = np.asarray(numbers)
    to_points = axis.figure.dpi_scale_trans.inverted()
    pixels = np.stack([np.asarray(x, float), np.asarray(y, float)], axis=1)
    places = 72 * to_points.transform(axis.transData.transform(pixels))  # point xy
    bottom, top = 72 * to_points.transform(axis.transAxes.transform([(0, 0), (0, 1)]))[:, 1]
    order = np.argsort(places[:, 0], kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(places[order, 0]) > _GAP) + 1):
        # Backwards, so that of points at one height the first number stands on top.
        halves = [half[::-1] for half in np.split(group, [len(group) // 2])]
        left, right = places[group, 0].min() - _FROM_POINTS, places[group, 0].max() + _FROM_POINTS
        for half, column, side in zip(halves, (left, right), ("right", "left"), strict=True):
            heights = spaced(places[half, 1], _LINE_HEIGHT, bottom, top)
            for point, height in zip(half, heights, strict=True):
                axis.annotate(
                    str(words[point]),
                    places[point] / 72,
                    (column / 72, height / 72),
                    xycoords=axis.figure.dpi_scale_trans,
                    textcoords=axis.figure.dpi_scale_trans,
                    ha=side,
                    va="center",
                    fontsize=_FONT_SIZE,
                    arrowprops={
                        "arrowstyle": "-",
                        "linewidth": 0.4,
                        "shrinkA": 1,
                        "shrinkB": 2.5,
                        "relpos": (1 if side == "right" else 0, 0.5),
                    },
                    annotation_clip=False,
                ).set_in_layout(False)  # else the points would move away from under it


def spaced(values: ArrayLike, gap: float, low: float, high: float) -> np.ndarray:
    """Heights as near to the values as may be, in their order, `gap` apart, from low to high.

    Where there is no room for all, those at the top come closer than `gap` to the upper end.

    >>> spaced([5, 5.5, 9], 2, 0, 20).tolist()
    [4.25, 6.25, 9.0]
    """
    given = np.asarray(values, dtype=float)
    order = np.argsort(given, kind="stable")
    steps = gap * np.arange(len(given))
    fitted = isotonic_regression(given[order] - steps).x if len(given) else steps
    room = np.maximum(high - gap * np.arange(len(given), 0, -1) + gap / 2, low)
    heights = np.empty_like(given)
    heights[order] = np.clip(fitted, low + gap / 2, None) + steps
    heights[order] = np.minimum(heights[order], room)
    return heights
