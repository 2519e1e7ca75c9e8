"""Late fusion: the two encoders decide, a rule joins their decisions (section 3.3, item 2)."""

import torch
from torch import Tensor

from cfnsr.models.base import EmotionModel, Sizes
from cfnsr.models.mfcc_cnn import MFCCNet
from cfnsr.models.resnext import ResNeXt


class _LateFusion(EmotionModel):
    """Both encoders with both heads."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.video = ResNeXt(sizes)
        self.audio = MFCCNet(sizes)

    def log_probabilities(self, frames: Tensor, mfcc: Tensor) -> Tensor:
        """Each modality's log-probabilities, (modality, clip, emotion): video, then audio."""
        logits = torch.stack([self.video(frames), self.audio(mfcc)])
        return logits.log_softmax(dim=-1)


class Averaging(_LateFusion):
    r"""The mean of both probability vectors: :math:`p = (p_V + p_A) / 2`.

    The logits are its logarithm, so their softmax is p again and cross entropy is -log p.
    """

    def forward(self, frames: Tensor, mfcc: Tensor) -> Tensor:
        log_p = self.log_probabilities(frames, mfcc)
        return torch.logsumexp(log_p, dim=0) - torch.log(log_p.new_tensor(2.0))


class Multiplication(_LateFusion):
    r"""The normalised product: :math:`p \propto p_V\,p_A`."""

    def forward(self, frames: Tensor, mfcc: Tensor) -> Tensor:
        return self.log_probabilities(frames, mfcc).sum(dim=0).log_softmax(dim=-1)
