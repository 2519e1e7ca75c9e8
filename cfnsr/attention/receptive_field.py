"""What part of its input each position of a convolutional network sees."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import nn


@dataclass(frozen=True)
class Axis:
    """Where a network's positions look along one axis of its input, in samples from 0 on.

    Position i sees `width` samples around `first + i * step`.
    """

    first: float
    step: int
    width: int

    def centres(self, n_positions: int) -> np.ndarray:
        return self.first + self.step * np.arange(n_positions)

    def nearest(self, n_positions: int, n_samples: int) -> np.ndarray:
        """The position whose centre is nearest, for each of the samples; the first of two."""
        distances = np.abs(np.arange(n_samples)[:, None] - self.centres(n_positions))
        return distances.argmin(axis=1)


def receptive_axis(layers: Iterable[nn.Module], axis: int = 0) -> Axis:
    """Follow kernels, strides and padding through convolutions and pools, first to last."""
    first, step, width = 0.0, 1, 1
    for layer in layers:
        kernel, stride, padding, dilation = (
            int(np.broadcast_to(getattr(layer, name), 3)[axis])  # one number stands for all axes
            for name in ("kernel_size", "stride", "padding", "dilation")
        )
        reach = dilation * (kernel - 1)
        first += (reach / 2 - padding) * step
        width += reach * step
        step *= stride
    return Axis(first, step, width)
