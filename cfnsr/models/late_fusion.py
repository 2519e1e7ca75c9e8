"""Late fusion: the two encoders decide, a rule joins their decisions (section 3.3, items 2-3)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfnsr.models.base import EmotionModel, Sizes
from cfnsr.models.mfcc_cnn import MFCCNet
from cfnsr.models.resnext import ResNeXt


class LateFusion(EmotionModel):
    """Both encoders with both heads."""

    video: nn.Module
    audio: nn.Module

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.video = ResNeXt(sizes)
        self.audio = MFCCNet(sizes)

    def log_probabilities(self, frames: Tensor, mfcc: Tensor) -> Tensor:
        """Each modality's log-probabilities, (modality, clip, emotion): video, then audio."""
        logits = torch.stack([self.video(frames), self.audio(mfcc)])
        return logits.log_softmax(dim=-1)

    @classmethod
    def combine(cls, log_p: Tensor) -> Tensor:
        """Join log-probabilities (modality, clip, emotion) to logits (clip, emotion)."""
        raise NotImplementedError

    def forward(self, frames: Tensor, mfcc: Tensor) -> Tensor:
        return self.combine(self.log_probabilities(frames, mfcc))


class Averaging(LateFusion):
    r"""The mean of both probability vectors: :math:`p = (p_V + p_A) / 2`.

    The logits are its logarithm, so their softmax is p again and cross entropy is -log p.
    """

    @classmethod
    def combine(cls, log_p: Tensor) -> Tensor:
        return torch.logsumexp(log_p, dim=0) - math.log(len(log_p))


class Multiplication(LateFusion):
    r"""The normalised product: :math:`p \propto p_V\,p_A`."""

    @classmethod
    def combine(cls, log_p: Tensor) -> Tensor:
        return log_p.sum(dim=0).log_softmax(dim=-1)


class Multiplicative(LateFusion):
    r"""Each modality's cross entropy counts less, the surer the other is of the same class.

    With :math:`p_m^c` modality m's probability of class c, M = 2 modalities and b = 0.3,

    .. math::
        \ell^c = -\sum_m q_m^c \log p_m^c, \qquad
        q_m^c = \Big[\prod_{j \ne m} (1 - p_j^c)\Big]^{b / (M - 1)}

    The loss is that of the true class; the decision is the class of the smallest loss. So the
    logits are :math:`-\ell^c`, which are at most 0; their softmax is not a probability that the
    model was trained for. Source: Liu et al. 2018 (item 3) and their code; their boosted and
    mixture-of-modalities variants are not used.

    Args:
        gradient_through_weights: of the loss; in its authors' code the gradient stops at q.
    """

    beta = 0.3

    def __init__(self, sizes: Sizes, gradient_through_weights: bool = False) -> None:
        super().__init__(sizes)
        self.gradient_through_weights = gradient_through_weights

    @classmethod
    def combine(cls, log_p: Tensor) -> Tensor:
        return (cls.weights(log_p) * log_p).sum(dim=0)

    def loss(self, emotion: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        log_p = self.log_probabilities(*inputs)
        weights = self.weights(log_p if self.gradient_through_weights else log_p.detach())
        logits = (weights * log_p).sum(dim=0)
        return F.nll_loss(logits, emotion), logits

    @classmethod
    def weights(cls, log_p: Tensor) -> Tensor:
        """q for log-probabilities (modality, clip, emotion), of the same shape."""
        # log(1 - p) as the log of the sum of the other classes: finite, and so is its gradient,
        # where 1 - p rounds to zero.
        itself = torch.eye(log_p.shape[-1], dtype=torch.bool, device=log_p.device)
        log_rest = log_p[..., None, :].masked_fill(itself, -math.inf).logsumexp(dim=-1)
        log_rest_of_others = log_rest.sum(dim=0) - log_rest
        return torch.exp(cls.beta / (len(log_p) - 1) * log_rest_of_others)
