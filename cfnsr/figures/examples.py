"""Some clips as the networks get them: pictures and MFCCs."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from cfnsr.data.audio import HOP
from cfnsr.evaluation.tables import DATA_LABELS
from cfnsr.evaluation.typeset import MINUS
from cfnsr.figures.style import BLUE, drawn, entitle
from cfnsr.params import Preprocess, Source

#: Standardised MFCCs beyond this have the colour of the end, and the ticks of their bar say so.
_LARGEST_Z = 3
_Z_LABELS = (f"≤ {MINUS}{_LARGEST_Z}", "0", f"≥ {_LARGEST_Z}")


@drawn
def faces(frames: np.ndarray, index: pd.DataFrame, n_clips: int, data: Source) -> Figure:
    """Some clips' pictures in order of time, one clip a line.

    Args:
        frames: uint8 (clip, frame, S, S, channel), 3 channels of RGB or 1.
        index: the clips' `actor` and `emotion` (its name), in the same order.
    """
    chosen = spread(index, n_clips)
    n_frames = frames.shape[1]
    labels = [_clip_label(index, position) for position in chosen]
    figure, axes, shown = film_strips(labels, n_frames, 10, (0.9, 0.95), (1.2, 0.7))
    for line, position in zip(axes, chosen, strict=True):
        for axis, frame in zip(line, shown, strict=True):
            axis.imshow(frames[position, frame], "gray", vmin=0, vmax=255)
    entitle(figure, f"Faces, {DATA_LABELS[data]}")
    return figure


@drawn
def sound(
    mfcc: np.ndarray, index: pd.DataFrame, n_clips: int, settings: Preprocess, data: Source
) -> Figure:
    """The MFCCs of the clips that `faces` shows, each coefficient standardised over all clips.

    `mfcc` is (clip, coefficient, time).
    """
    chosen = spread(index, n_clips)
    mean = mfcc.mean(axis=(0, 2), dtype=np.float64)[:, None]
    sd = mfcc.std(axis=(0, 2), dtype=np.float64)[:, None]
    size = (8, 1.2 * len(chosen) + 0.8)
    figure, axes = plt.subplots(len(chosen), 1, figsize=size, sharex=True, squeeze=False)
    n_coefficients = mfcc.shape[1]
    for axis, position in zip(axes[:, 0], chosen, strict=True):
        image = draw_mfcc(axis, (mfcc[position] - mean) / np.maximum(sd, 1e-6), settings)
        axis.set_yticks(np.unique([1, (n_coefficients + 1) // 2, n_coefficients]))
        axis.set_ylabel("coefficient")
        axis.set_title(_clip_label(index, position, ", "), loc="left")
    axes[-1, 0].set_xlabel("time in the clip, s")
    bar = figure.colorbar(image, ax=axes[:, 0].tolist(), extend="both", aspect=30, pad=0.01)
    mark_z(bar)
    bar.set_label("standard deviations\nfrom the mean of all clips")
    entitle(figure, f"MFCCs, {DATA_LABELS[data]}")
    return figure


@drawn
def found_faces(faces: pd.DataFrame, data: Source) -> Figure:
    """In how many of the frames that it looked at the tracker found a face, by person.

    Args:
        faces: `actor`, `n_looks` and `n_seen`, see `cfnsr.data.preprocess`.
    """
    figure, axis = plt.subplots(figsize=(8, 2.6))
    share_pct = 100 * faces["n_seen"] / faces["n_looks"]
    axis.bar(faces["actor"].astype(str), share_pct, color=BLUE)
    axis.set(xlabel="actor", ylabel="frames with a face, %", ylim=(0, 100))
    axis.tick_params(axis="x", rotation=90, labelsize=min(8, 500 / len(faces)))
    axis.margins(x=0.01)
    entitle(figure, f"Where the tracker found a face, {DATA_LABELS[data]}")
    return figure


def film_strips(
    labels: Sequence[str],
    n_frames: int,
    n_most: int,
    inches_a_picture: tuple[float, float],
    inches_around: tuple[float, float],
) -> tuple[Figure, np.ndarray, np.ndarray]:
    """Room for the pictures of some clips in order of time, one clip a line.

    Returns:
        The figure, its axes (clip, shown) and the frames that are shown, at most `n_most`.
    """
    shown = np.unique(np.linspace(0, n_frames - 1, min(n_frames, n_most)).round().astype(int))
    size = np.array([len(shown), len(labels)]) * inches_a_picture + inches_around
    figure, axes = plt.subplots(len(labels), len(shown), figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for axis, label in zip(axes[:, 0], labels, strict=True):
        axis.set_ylabel(label, rotation=0, ha="right", va="center")
    for axis, frame in zip(axes[-1], shown, strict=True):
        axis.set_xlabel(f"{frame + 1}")
    figure.supxlabel(f"frame, of {n_frames} spaced over the clip", fontsize=8)
    return figure, axes, shown


def draw_mfcc(axis: Axes, standardised: np.ndarray, settings: Preprocess) -> AxesImage:
    """MFCCs (coefficient, time) over the time in the clip."""
    n_coefficients, n_times = standardised.shape
    step_s = HOP / settings.sample_rate_hz
    start_s = settings.offset_s - step_s / 2  # a vector stands in the middle of its column
    return axis.imshow(
        standardised,
        "RdBu_r",
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        vmin=-_LARGEST_Z,
        vmax=_LARGEST_Z,
        extent=(start_s, start_s + n_times * step_s, 0.5, n_coefficients + 0.5),
    )


def mark_z(bar: Colorbar) -> None:
    """Ticks of a colour bar of `draw_mfcc`."""
    bar.set_ticks([-_LARGEST_Z, 0, _LARGEST_Z], labels=_Z_LABELS)


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


def _clip_label(index: pd.DataFrame, position: int, separator: str = "\n") -> str:
    clip = index.iloc[position]
    return f"{clip['emotion']}{separator}actor {clip['actor']}"
