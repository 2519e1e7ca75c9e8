"""What every system shares: its sizes, its call, its loss."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cfnsr.data import segments
from cfnsr.data.audio import N_MELS, n_mfcc_frames
from cfnsr.data.corpora import Corpus
from cfnsr.data.motion import N_BANDS, N_TRACKS, n_moments
from cfnsr.data.summary import N_LANDMARK_STATISTICS, N_STATISTICS_PER_MFCC
from cfnsr.params import Hybrid, Model, SourceParams

#: Units of AlexNet's and C3D's fc7 at full width.
N_FC7 = 4096


@dataclass(frozen=True)
class Sizes:
    """What a builder needs to know; the defaults are the paper's."""

    model: Model = field(default_factory=Model)
    n_mfcc: int = 13
    n_mfcc_frames: int = 212
    hybrid: Hybrid = field(default_factory=Hybrid)
    n_segments: int = 6
    n_emotions: int = 8

    @classmethod
    def of(cls, source: SourceParams, corpus: Corpus) -> "Sizes":
        """The sizes that a section of params.yaml asks for, with an output an emotion."""
        settings = source.preprocess
        return cls(
            source.model,
            settings.n_mfcc,
            n_mfcc_frames(settings.sample_rate_hz, settings.duration_s),
            source.hybrid,
            segments.n_segments(settings),
            len(corpus.emotions),
        )

    def shape(self, array: str) -> tuple[int, ...]:
        """Of one clip's array, but for frames, on whose size few weights depend."""
        fc7 = (narrow(N_FC7, self.hybrid.width), self.n_segments)
        return {
            "mfcc": (self.n_mfcc, self.n_mfcc_frames),
            "log_mel": (N_MELS, self.n_mfcc_frames),
            "coarse_log_mel": (N_BANDS, n_moments(self.n_mfcc_frames)),
            "mfcc_statistics": (N_STATISTICS_PER_MFCC * self.n_mfcc,),
            "landmark_statistics": (N_LANDMARK_STATISTICS,),
            "motion": (N_TRACKS, n_moments(self.n_mfcc_frames)),
            "segment_mel": (
                segments.N_CHANNELS * segments.N_BANDS,
                self.n_segments,
                segments.N_MOMENTS,
            ),
            "video_fc7": fc7,
            "audio_fc7": fc7,
        }[array]


FULL_SIZE = Sizes()


def narrow(n: int, width: float) -> int:
    """So many channels or units in a network of that width, see `Hybrid`."""
    return max(1, round(width * n))


class EmotionModel(nn.Module):
    """A system of Table 1 or 2.

    `forward` takes the arrays that `cfnsr.models.registry.Row.inputs` names, in that order, each
    (clip, ...), and gives logits (clip, emotion). Frames come normalised, (clip, channel, frame,
    height, width) with 3 channels, or 1 of grey; all others come scaled. A clip's logits never
    depend on the other clips of its batch.
    """

    def loss(self, emotion: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Training loss, here cross entropy (eq. 10), and the logits that it was computed from.

        `emotion` (clip,) holds class indices.
        """
        logits = self(*inputs)
        return F.cross_entropy(logits, emotion), logits

    @torch.no_grad()
    def forward_gflops(self, *shapes: Sequence[int]) -> float:
        """The cost of one clip's forward pass, 10^9 operations; a product and a sum are two.

        Matrix products and convolutions are counted, and not computed.

        Args:
            shapes: of one clip's inputs.
        """
        inputs = [torch.empty(1, *shape, device="meta") for shape in shapes]
        with FlopCounterMode(display=False) as counter:
            copy.deepcopy(self).to("meta").eval()(*inputs)
        return counter.get_total_flops() / 1e9

    def fit(self, emotion: np.ndarray, actor: np.ndarray, *inputs: np.ndarray) -> None:
        """Find the optimum at once; only of rows whose schedule is `none`.

        Args:
            emotion: class indices of the training clips; actor: who plays them; inputs: theirs.
        """
        raise NotImplementedError
