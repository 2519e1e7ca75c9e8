"""Early fusion: the encoders' features are joined, one classifier decides (section 3.3, item 1)."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfnsr.models.base import N_EMOTIONS, EmotionModel, Sizes
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
            nn.Linear(128, N_EMOTIONS),
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
        spectra = torch.fft.rfft(
            self.sketch(video.float(), self.video_hash, self.video_sign)
        ) * torch.fft.rfft(self.sketch(audio.float(), self.audio_hash, self.audio_sign))
        return torch.fft.irfft(spectra, n=self.n_sketch)

    def sketch(self, features: Tensor, hashes: Tensor, signs: Tensor) -> Tensor:
        """The count sketch, (clip, feature) to (clip, n_sketch)."""
        empty = features.new_zeros(len(features), self.n_sketch)
        return empty.index_add(1, hashes, signs * features)


class MCBP(EmotionModel):
    """Table 1, "MCBP": compact bilinear pooling of the pooled X_V and the flattened X_A.

    The d = 16,000 sums pass a signed square root and an L2 normalisation before the linear head.
    """

    def __init__(self, sizes: Sizes, n_sketch: int = 16_000) -> None:
        super().__init__()
        self.video = ResNeXt(sizes, head=False)
        self.audio = MFCCNet(sizes, head=False)
        self.pooling = CompactBilinear(self.video.n_channels, self.audio.n_features, n_sketch)
        self.head = nn.Linear(n_sketch, N_EMOTIONS)

    def forward(self, frames: Tensor, mfcc: Tensor) -> Tensor:
        x_v, x_a = self.video.features(frames), self.audio.features(mfcc)
        sketch = self.pooling(average_pool(x_v), self.audio.flatten(x_a))
        return self.head(F.normalize(signed_sqrt(sketch), dim=1))


def signed_sqrt(x: Tensor, softness: float = 1e-4) -> Tensor:
    r"""Signed square root with a finite slope at zero, where the true one is infinite.

    .. math:: \mathrm{sign}(x) (\sqrt{|x| + \epsilon} - \sqrt{\epsilon})

    At most :math:`\sqrt{\epsilon}` = 0.01 away from the true one; its slope is at most 50.
    """
    return x.sign() * ((x.abs() + softness).sqrt() - softness**0.5)
