"""Some clips as the networks get them: pictures and MFCCs."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cfnsr.data.audio import HOP
from cfnsr.evaluation.tables import DATA_LABELS
from cfnsr.evaluation.typeset import MINUS
from cfnsr.figures.style import drawn, entitle
from cfnsr.params import Preprocess, Source

#: Standardised MFCCs beyond this have the colour of the end, and the ticks of their bar say so.
LARGEST_Z = 3
Z_LABELS = (f"≤ {MINUS}{LARGEST_Z}", "0", f"≥ {LARGEST_Z}")


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


def _clip_label(index: pd.DataFrame, position: int, separator: str = "\n") -> str:
    clip = index.iloc[position]
    return f"{clip['emotion']}{separator}actor {clip['actor']}"
