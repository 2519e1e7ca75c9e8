"""What the hybrid deep model takes of a clip, and what its first machine learns."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from cfnsr.data.segments import N_BANDS
from cfnsr.figures.style import BLUE, GREY, ORANGE, drawn, entitle


@drawn
def segments(segment_mel: np.ndarray, frames: np.ndarray, title: str) -> Figure:
    """A clip's segments: what is heard, and the first, middle and last frame beside it.

    Args:
        segment_mel: (channel * band, segment, moment), of which the first channel is shown.
        frames: uint8 (segment * frame, S, S, channel), 3 channels of RGB or 1.
    """
    log_mel = segment_mel[:N_BANDS].astype(np.float32)
    n_segments = log_mel.shape[1]
    seen = frames.reshape(n_segments, -1, *frames.shape[1:])
    n_frames = seen.shape[1]
    figure, axes = plt.subplots(4, n_segments, figsize=(1.3 * n_segments + 0.6, 5.4), squeeze=False)
    shown = {"first": 0, "middle": n_frames // 2, "last": n_frames - 1}
    for i, column in enumerate(axes.T):
        column[0].imshow(
            log_mel[:, i], "magma", origin="lower", vmin=log_mel.min(), vmax=log_mel.max()
        )
        column[0].set_title(f"segment {i + 1}")
        for axis, place in zip(column[1:], shown.values(), strict=True):
            axis.imshow(seen[i, place], "gray", vmin=0, vmax=255)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for axis, label in zip(axes[:, 0], ["log-mel", *shown], strict=True):
        axis.set_ylabel(label)
    entitle(figure, title)
    return figure


@drawn
def machine(
    errors: dict[str, list[float]], data: np.ndarray, samples: np.ndarray, title: str
) -> Figure:
    """How a machine learns, and whether what it makes up hangs together as the data do.

    Args:
        errors: reconstruction errors by whose segments these are, before and after each epoch.
        data, samples: visible units (n, unit), half of them of the face and half of the voice.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.6))
    for (whose, values), colour in zip(errors.items(), (BLUE, ORANGE), strict=True):
        left.plot(values, color=colour, label=whose)
    left.set(xlabel="epochs", ylabel="mean squared error of reconstruction", ylim=(0, None))
    left.legend()
    n = data.shape[1] // 2
    alive = (data.std(axis=0) > 0) & (samples.std(axis=0) > 0)
    of_data, made_up = (np.corrcoef(visible[:, alive], rowvar=False) for visible in (data, samples))
    is_face = np.arange(2 * n)[alive] < n
    across = is_face[:, None] & ~is_face
    within = np.triu(is_face[:, None] == is_face, 1)
    for pairs, colour, label in (
        (within, GREY, "two units of one network"),
        (across, ORANGE, "one of each"),
    ):
        right.plot(of_data[pairs], made_up[pairs], ".", color=colour, markersize=2, label=label)
        right.lines[-1].set_rasterized(True)
    right.axline((0, 0), slope=1, color="black", linewidth=0.8)
    right.set(xlabel="correlation in the data", ylabel="correlation in samples")
    right.legend(markerscale=4)
    entitle(figure, title)
    return figure
