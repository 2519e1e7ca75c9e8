"""The hybrid deep model as built, what it takes of a clip, what its first machine learns."""

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from cfnsr.data.segments import N_BANDS, N_CHANNELS
from cfnsr.figures.architecture import Column, sheet, text_of, trim
from cfnsr.figures.style import BLUE, GREEN, GREY, ORANGE, VERMILLION, drawn, entitle

if TYPE_CHECKING:  # reading needs torch, drawing does not
    from cfnsr.figures.network import Network

#: The modules of each box, in the order in which they are called.
_C3D = (("conv1",), ("conv2",), *(tuple(f"conv{i}{part}" for part in "ab") for i in (3, 4, 5)))
_ALEXNET = tuple((f"features.{i}",) for i in (0, 3, 6, 8, 10))


@drawn
def built(network: "Network", title: str) -> Figure:
    """Both networks on one segment, and the deep belief network on what they have found.

    Args:
        network: see `cfnsr.figures.network.read_hybrid`.
    """
    figure, axis = sheet()
    seen, heard = Column(axis, 1, 30, -1), Column(axis, 35, 30, -1)
    n_colours, n_frames, *size = network["video.conv1"].input_shape
    colours = "in grey" if n_colours == 1 else f"{n_colours} colours"
    seen.box("face", f"{n_frames} frames of {text_of(size)} beside a segment, {colours}", GREY)
    for modules in _C3D:
        seen.arrow(network[f"video.{modules[0]}"].input_shape)
        seen.modules(network, f"C3D, {modules[0][:5]}", [f"video.{m}" for m in modules], BLUE)
    seen.arrow(network["video.fc6"].input_shape, "pooled, flattened ")
    seen.modules(network, "C3D, fc6 and fc7", ["video.fc6", "video.fc7"], BLUE)

    shape = network["audio.features.0"].input_shape
    moments = f"log-mel, its change and the change of that: {N_CHANNELS} channels of a picture"
    heard.box("voice", f"a segment of {moments}", GREY)
    for i, modules in enumerate(_ALEXNET, start=1):
        heard.arrow(shape if i == 1 else network[f"audio.{modules[0]}"].input_shape)
        heard.modules(network, f"AlexNet, conv{i}", [f"audio.{m}" for m in modules], ORANGE)
    heard.arrow(network["audio.classifier.1"].input_shape, "pooled, flattened ")
    of_fc = ["audio.classifier.1", "audio.classifier.4"]
    heard.modules(network, "AlexNet, fc6 and fc7", of_fc, ORANGE)

    meeting = min(seen.y, heard.y) - 3
    for column, last in ((seen, "video.fc7"), (heard, "audio.classifier.4")):
        column.arrow(network[last].output_shape, "fc7", until=meeting)
    both = Column(axis, 1, 64, meeting)
    both.box("side by side", "standardised with statistics of the training actors", GREY)
    machines = [name for name in network if name.startswith("dbn.up.")]
    for i, name in enumerate(machines, start=1):
        both.arrow(network[name].input_shape)
        both.modules(network, f"restricted Boltzmann machine {i}", [name], GREEN)
    both.arrow(network[machines[-1]].output_shape)
    both.box("mean", "over a clip's segments", GREY)
    both.arrow(network["linear"].input_shape)
    both.modules(network, "linear SVM", ["linear"], VERMILLION)
    both.arrow(network["linear"].output_shape, "emotions")
    trim(figure, 66, both.y - 1, title)
    return figure


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
