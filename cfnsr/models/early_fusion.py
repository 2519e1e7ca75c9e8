"""Early fusion: the encoders' features are joined, one classifier decides (section 3.3, item 1)."""

from typing import Any

import numpy as np
import scipy.fft
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from cfnsr.models.base import EmotionModel, Sizes
from cfnsr.models.mfcc_cnn import MFCCNet
from cfnsr.models.resnext import ResNeXt, average_pool


class ConcatFC(EmotionModel):
    """Table 1, "Concat + FC": three linear layers on the pooled X_V beside the flattened X_A.

    Source: Ortega et al. 2019 for the scheme; the widths are those that give the paper's
    26.87 M, with ReLU between.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.video = ResNeXt(sizes, head=False)
        self.audio = MFCCNet(sizes, head=False)
        self.head = nn.Sequential(
            nn.Linear(self.video.n_channels + self.audio.n_features, 256),
            nn.ReLU(),
            nn.Linear(256, 128),
            nn.ReLU(),
            nn.Linear(128, sizes.n_emotions),
        )

    def forward(self, frames: Tensor, mfcc: Tensor) -> Tensor:
        x_v, x_a = self.video.features(frames), self.audio.features(mfcc)
        return self.head(torch.cat([average_pool(x_v), self.audio.flatten(x_a)], dim=1))


class CompactBilinear(nn.Module):
    r"""Products of all pairs of video and audio features, hashed into d sums.

    With hashes h, s drawn once for each entry of x and y, the count sketch is
    :math:`\Psi(x)_t = \sum_{i:\,h(i) = t} s(i) x_i`, and the sketch of the outer product is the
    circular convolution of the two sketches:

    .. math::
        \Psi(x \otimes y)
        = \mathrm{FFT}^{-1}(\mathrm{FFT}(\Psi(x)) \odot \mathrm{FFT}(\Psi(y)))

    Source: Fukui et al. 2016, algorithm 1. The hashes are buffers, drawn from a fixed seed, the
    same in every run and on every machine.
    """

    video_hash: Tensor
    video_sign: Tensor
    audio_hash: Tensor
    audio_sign: Tensor

    def __init__(self, n_video: int, n_audio: int, n_sketch: int) -> None:
        super().__init__()
        self.n_sketch = n_sketch
        draws = np.random.RandomState(1606)  # of NumPy's generators, the one that never changes
        for modality, n_features in (("video", n_video), ("audio", n_audio)):
            hashes = torch.from_numpy(draws.randint(n_sketch, size=n_features, dtype=np.int64))
            signs = torch.from_numpy(2 * draws.randint(2, size=n_features).astype(np.float32) - 1)
            self.register_buffer(f"{modality}_hash", hashes)
            self.register_buffer(f"{modality}_sign", signs)

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        """Video (clip, n_video) and audio (clip, n_audio) to float32 (clip, n_sketch)."""
        # Mixed precision must not reach the FFT: it has no bfloat16, and float16 overflows.
        convolved: Tensor = CircularConvolution.apply(
            self.sketch(video.float(), self.video_hash, self.video_sign),
            self.sketch(audio.float(), self.audio_hash, self.audio_sign),
        )
        return convolved

    def sketch(self, features: Tensor, hashes: Tensor, signs: Tensor) -> Tensor:
        """The count sketch, (clip, feature) to (clip, n_sketch)."""
        empty = features.new_zeros(len(features), self.n_sketch)
        return empty.index_add(1, hashes, signs * features)


class CircularConvolution(torch.autograd.Function):
    r"""The circular convolution of x and y, both (clip, n), by the FFT.

    With g the gradient of the result, those of x and y are its circular correlations with the
    other factor:

    .. math::
        \mathrm{FFT}(\nabla x) = \mathrm{FFT}(g) \odot \overline{\mathrm{FFT}(y)}, \qquad
        \mathrm{FFT}(\nabla y) = \mathrm{FFT}(g) \odot \overline{\mathrm{FFT}(x)}

    On a CPU the FFT is SciPy's, which computes the same bits on every make of processor. PyTorch's
    own, MKL's, does not.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, y: Tensor) -> Tensor:
        of_x, of_y = rfft(x), rfft(y)
        ctx.save_for_backward(of_x, of_y)
        return irfft(of_x * of_y, x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        of_x, of_y = ctx.saved_tensors
        of_gradient, n = rfft(gradient), gradient.shape[1]
        return irfft(of_gradient * of_y.conj(), n), irfft(of_gradient * of_x.conj(), n)


def rfft(x: Tensor) -> Tensor:
    """The spectrum (clip, n // 2 + 1) of real values (clip, n)."""
    if x.device.type == "cpu":
        return torch.from_numpy(scipy.fft.rfft(x.detach().numpy()))
    return torch.fft.rfft(x)


def irfft(spectrum: Tensor, n: int) -> Tensor:
    """The n real values of which `rfft` gives this spectrum."""
    if spectrum.device.type == "cpu":
        return torch.from_numpy(scipy.fft.irfft(spectrum.numpy(), n))
    return torch.fft.irfft(spectrum, n)


class MCBP(EmotionModel):
    """Table 1, "MCBP": compact bilinear pooling of the pooled X_V and the flattened X_A.

    The d = 16,000 sums pass a signed square root, an L2 normalisation and, in training, dropout
    before the linear head, as in its authors' code.
    """

    dropout = 0.1

    def __init__(self, sizes: Sizes, n_sketch: int = 16_000) -> None:
        super().__init__()
        self.video = ResNeXt(sizes, head=False)
        self.audio = MFCCNet(sizes, head=False)
        self.pooling = CompactBilinear(self.video.n_channels, self.audio.n_features, n_sketch)
        self.head = nn.Linear(n_sketch, sizes.n_emotions)

    def forward(self, frames: Tensor, mfcc: Tensor) -> Tensor:
        x_v, x_a = self.video.features(frames), self.audio.features(mfcc)
        sketch = self.pooling(average_pool(x_v), self.audio.flatten(x_a))
        joint = F.normalize(signed_sqrt(sketch), dim=1)
        return self.head(F.dropout(joint, self.dropout, self.training))


def signed_sqrt(x: Tensor, softness: float = 1e-4) -> Tensor:
    r"""Signed square root with a finite slope at zero, where the true one is infinite.

    .. math:: \mathrm{sign}(x) (\sqrt{|x| + \epsilon} - \sqrt{\epsilon})

    At most :math:`\sqrt{\epsilon}` = 0.01 away from the true one; its slope is at most 50.
    """
    # torch.sqrt gives other bits on other makes of processor, torch.rsqrt does not.
    softened = x.abs() + softness
    return x.sign() * (softened * softened.rsqrt() - softness**0.5)
