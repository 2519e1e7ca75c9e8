"""What every system shares: its sizes, its call, its loss."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cfnsr.data.audio import n_mfcc_frames
from cfnsr.data.corpora.ravdess import EMOTIONS
from cfnsr.params import Model, SourceParams

N_EMOTIONS = len(EMOTIONS)


@dataclass(frozen=True)
class Sizes:
    """What a builder needs to know; the defaults are the paper's."""

    model: Model = field(default_factory=Model)
    n_mfcc: int = 13
    n_mfcc_frames: int = 212

    @classmethod
    def of(cls, source: SourceParams) -> "Sizes":
        """The sizes that a section of params.yaml asks for."""
        settings = source.preprocess
        return cls(
            source.model,
            settings.n_mfcc,
            n_mfcc_frames(settings.sample_rate_hz, settings.duration_s),
        )


FULL_SIZE = Sizes()


class EmotionModel(nn.Module):
    """A system of Table 1 or 2.

    `forward(frames, mfcc)` takes frames (clip, 3, frame, height, width), normalised, and MFCCs
    (clip, coefficient, time), and gives logits (clip, emotion). A clip's logits never depend on
    the other clips of its batch. A modality that `uses_video` or `uses_audio` denies may be empty.
    With `audio_input` "log_mel" the second argument is a log-mel spectrogram (clip, band, time),
    with "statistics" it holds statistics of the whole clip (clip, statistic, 1), with
    "motion_and_voice" landmark tracks above a log-mel spectrogram (clip, track or band, moment).
    """

    uses_video = True
    uses_audio = True
    audio_input: Literal["mfcc", "log_mel", "statistics", "motion_and_voice"] = "mfcc"

    @classmethod
    def sound_shape(cls, sizes: Sizes) -> tuple[int, int]:
        """Of what `audio_input` names, of one clip: (coefficient, time) of MFCCs."""
        return sizes.n_mfcc, sizes.n_mfcc_frames

    def loss(self, frames: Tensor, mfcc: Tensor, emotion: Tensor) -> tuple[Tensor, Tensor]:
        """Training loss, here cross entropy (eq. 10), and the logits that it was computed from.

        `emotion` (clip,) holds class indices.
        """
        logits = self(frames, mfcc)
        return F.cross_entropy(logits, emotion), logits

    @torch.no_grad()
    def forward_gflops(self, frames_shape: Sequence[int], sound_shape: Sequence[int]) -> float:
        """The cost of one clip's forward pass, 10^9 operations; a product and a sum are two.

        Matrix products and convolutions are counted, and not computed.

        Args:
            frames_shape: (3, frame, height, width); sound_shape: (band, time), each of one clip.
        """
        frames, sound = (
            torch.empty(1, *shape, device="meta") for shape in (frames_shape, sound_shape)
        )
        with FlopCounterMode(display=False) as counter:
            copy.deepcopy(self).to("meta").eval()(frames, sound)
        return counter.get_total_flops() / 1e9

    def fit(self, sound: np.ndarray, emotion: np.ndarray, actor: np.ndarray) -> None:
        """Find the optimum at once; only of rows whose schedule is `none`.

        Args:
            sound: what `audio_input` says, scaled, of the training clips; emotion: their class
            indices; actor: who plays them.
        """
        raise NotImplementedError
