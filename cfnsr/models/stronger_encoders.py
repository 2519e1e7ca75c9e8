"""The paper's fusions on other encoders: the motion and voice networks of `motion_voice`.

Each starts from the two networks that were trained alone and goes on training them. Features are
pooled over time as these networks pool them, to mean and maximum. As in `MotionAndVoice` the loss
is smoothed. Multiplying their probabilities is `MotionAndVoice` itself.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfnsr.models.base import EmotionModel, Sizes
from cfnsr.models.cross_modal import CrossModalAttention
from cfnsr.models.encoder import Encoder
from cfnsr.models.motion_voice import LABEL_SMOOTHING, encoders, mean_and_max
from cfnsr.models.msaf import SplitAttention

DROPOUT = 0.4


class _Fusion(EmotionModel):
    """Motion and voice networks; `fuse` joins their features, here by a head on both pooled."""

    head: nn.Module

    def __init__(self, sizes: Sizes, head: bool = False) -> None:
        super().__init__()
        self.motion, self.voice = encoders(sizes, head)

    def fuse(self, motion: Tensor, voice: Tensor) -> Tensor:
        """Features (clip, channel, moment) of both, at their own rates, to logits."""
        return self.head(torch.cat([mean_and_max(motion), mean_and_max(voice)], dim=1))

    def forward(self, tracks: Tensor, spectrogram: Tensor) -> Tensor:
        return self.fuse(self.motion.features(tracks), self.voice.features(spectrogram))

    def loss(self, emotion: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        logits = self(*inputs)
        return F.cross_entropy(logits, emotion, label_smoothing=LABEL_SMOOTHING), logits

    @property
    def _n_pooled(self) -> int:
        return 2 * (self.motion.n_channels + self.voice.n_channels)


class Spliced(_Fusion):
    """Eq. 9 without cross-modal blocks: one linear map on both pooled features."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.head = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(self._n_pooled, sizes.n_emotions))


class CrossModal(Spliced):
    """CFN-SR's blocks (eqs. 5-9): the encoded voice asks, the moments of motion are attended to.

    A clip's moments are one slice, over which the softmax of eq. 8 runs.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        k = self.voice.n_channels
        self.encoder = Encoder(k, sizes.model.n_encoder_layers, sizes.model.n_heads)
        self.attention = CrossModalAttention(self.motion.n_channels, k, k)

    def fuse(self, motion: Tensor, voice: Tensor) -> Tensor:
        summary = self.encoder(voice)[:, -1]
        attention = self.attention(motion[:, :, None, None], summary).flatten(1)  # clip moment
        return super().fuse(attention[:, None] * motion + motion, voice)


class ConcatFC(_Fusion):
    """The three linear layers of `early_fusion.ConcatFC` on both pooled features."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.head = nn.Sequential(
            nn.Dropout(DROPOUT),
            nn.Linear(self._n_pooled, 256),
            nn.ReLU(),
            nn.Linear(256, 128),
            nn.ReLU(),
            nn.Linear(128, sizes.n_emotions),
        )


class MSAF(_Fusion):
    """One `SplitAttention` on the last features of both, and the sum of both heads' logits."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes, head=True)
        n_motion, n_voice = self.motion.n_channels, self.voice.n_channels
        self.attention = SplitAttention(n_motion, n_voice, math.ceil(n_voice / 2))

    def fuse(self, motion: Tensor, voice: Tensor) -> Tensor:
        motion, voice = self.attention(motion[:, :, None, None], voice)
        return self.motion.classify(motion[:, :, 0, 0]) + self.voice.classify(voice)
