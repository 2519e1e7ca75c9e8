"""Ours, not the paper's: a small network on landmark tracks and one on the spectrogram."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfnsr.data.landmarks import N_LANDMARKS
from cfnsr.data.motion import MIRRORED, N_BANDS, N_TRACKS
from cfnsr.models.base import EmotionModel, Sizes

LABEL_SMOOTHING = 0.1
#: The largest hidden stretch of the spectrogram, in bands and in moments of 46 ms; two of each.
MASK = 10
#: The shortest part of a clip that a warp stretches over the whole.
SHORTEST_WARP = 0.7


class Residual(nn.Module):
    """BN, ReLU, convolution, twice, around an identity or a convolution of kernel 1."""

    def __init__(
        self,
        convolution: type[nn.Conv1d] | type[nn.Conv2d],
        norm: type[nn.BatchNorm1d] | type[nn.BatchNorm2d],
        n_in: int,
        n_out: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.norm1 = norm(n_in)
        self.conv1 = convolution(
            n_in,
            n_out,
            kernel_size,
            stride=stride,
            padding=dilation * padding,
            dilation=dilation,
            bias=False,
        )
        self.norm2 = norm(n_out)
        self.conv2 = convolution(n_out, n_out, kernel_size, padding=padding, bias=False)
        self.dropout = nn.Dropout(dropout)
        same = stride == 1 and n_in == n_out
        self.shortcut = (
            nn.Identity() if same else convolution(n_in, n_out, 1, stride=stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return self.shortcut(x) + self.dropout(self.conv2(F.relu(self.norm2(y))))


class MotionNet(nn.Module):
    """Landmark tracks and their changes (clip, 140, moment) to logits, by dilated convolutions.

    In training half of the faces are mirrored, and a part of each clip is stretched over the whole.
    `head=False` leaves the classifier out.
    """

    mirrored: Tensor
    sign: Tensor

    def __init__(self, n_channels: int, n_emotions: int, head: bool = True) -> None:
        super().__init__()
        self.n_channels = n_channels
        x_and_y = [2 * i + axis for i in MIRRORED for axis in (0, 1)]
        order = torch.tensor([*x_and_y, *range(2 * N_LANDMARKS, N_TRACKS)])
        sign = torch.ones(N_TRACKS)
        sign[: 2 * N_LANDMARKS : 2] = -1  # x
        sign[[2 * N_LANDMARKS, 2 * N_LANDMARKS + 2]] = -1  # the head's x and roll
        self.register_buffer("mirrored", order, persistent=False)
        self.register_buffer("sign", sign[:, None], persistent=False)
        self.norm = nn.BatchNorm1d(2 * N_TRACKS)
        self.dropout = nn.Dropout1d(0.1)
        self.convolutions = nn.Sequential(
            nn.Conv1d(2 * N_TRACKS, n_channels, 3, padding=1),
            *[
                Residual(
                    nn.Conv1d, nn.BatchNorm1d, n_channels, n_channels, 5, dilation=d, dropout=0.2
                )
                for d in (1, 2, 4, 1)
            ],
            nn.BatchNorm1d(n_channels),
            nn.ReLU(),
        )
        self.head = (
            nn.Sequential(nn.Dropout(0.3), nn.Linear(2 * n_channels, n_emotions)) if head else None
        )

    def features(self, tracks: Tensor) -> Tensor:
        """(clip, n_channels, moment)."""
        if self.training:
            tracks = warp(self.mirror(tracks))
        change = F.pad(tracks.diff(dim=2), (1, 0))
        x = self.norm(torch.cat([tracks, change], dim=1))
        return self.convolutions(self.dropout(x))

    def classify(self, features: Tensor) -> Tensor:
        """Logits from the features; needs `head=True`."""
        assert self.head is not None, "built with head=False"
        return self.head(mean_and_max(features))

    def forward(self, tracks: Tensor) -> Tensor:
        return self.classify(self.features(tracks))

    def mirror(self, tracks: Tensor) -> Tensor:
        """Mirror each face with probability 1/2.

        The tracks are standardised, and those of a left and a right landmark are taken to have been
        so alike.
        """
        chosen = torch.rand(len(tracks), 1, 1, device=tracks.device) < 0.5
        return torch.where(chosen, tracks[:, self.mirrored] * self.sign, tracks)


class VoiceNet(nn.Module):
    """A spectrogram (clip, 64 bands, moment) to logits: a residual 2D CNN, then one over time.

    In training two stretches of bands and two of time are hidden (SpecAugment). `head=False` leaves
    the classifier out.
    """

    def __init__(self, n: int, n_emotions: int, head: bool = True) -> None:
        super().__init__()
        self.n_channels = 8 * n
        self.net = nn.Sequential(
            nn.Conv2d(1, n, 3, stride=(2, 1), padding=1, bias=False),
            Residual(nn.Conv2d, nn.BatchNorm2d, n, n, 3),
            Residual(nn.Conv2d, nn.BatchNorm2d, n, 2 * n, 3, stride=2),
            Residual(nn.Conv2d, nn.BatchNorm2d, 2 * n, 4 * n, 3, stride=2),
            nn.BatchNorm2d(4 * n),
            nn.ReLU(),
        )
        self.over_time = nn.Sequential(
            nn.Conv1d(4 * n * N_BANDS // 8, 8 * n, 1),
            nn.BatchNorm1d(8 * n),
            nn.ReLU(),
            nn.Dropout(0.2),
        )
        self.head = nn.Sequential(nn.Dropout(0.4), nn.Linear(16 * n, n_emotions)) if head else None

    def features(self, spectrogram: Tensor) -> Tensor:
        """(clip, n_channels, a quarter of the moments)."""
        if self.training:
            spectrogram = hide(hide(spectrogram, dim=1), dim=2)
        x = self.net(spectrogram[:, None]).flatten(1, 2)  # clip channel*band moment
        return self.over_time(x)

    def classify(self, features: Tensor) -> Tensor:
        """Logits from the features; needs `head=True`."""
        assert self.head is not None, "built with head=False"
        return self.head(mean_and_max(features))

    def forward(self, spectrogram: Tensor) -> Tensor:
        return self.classify(self.features(spectrogram))


class MotionAndVoice(EmotionModel):
    """`MotionNet` and `VoiceNet`, each trained by a loss of its own; their log odds are added.

    They are given tracks (clip, 140, moment) and a coarse spectrogram (clip, 64, moment), see
    `cfnsr.data.motion`. Not being a row of the paper, it has smoothed losses.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.motion, self.voice = encoders(sizes)

    def forward(self, tracks: Tensor, spectrogram: Tensor) -> Tensor:
        return self._add(self.motion(tracks), self.voice(spectrogram))

    def loss(self, emotion: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of both networks' cross entropies, and the logits of the whole."""
        tracks, spectrogram = inputs
        motion, voice = self.motion(tracks), self.voice(spectrogram)
        loss = sum(
            F.cross_entropy(logits, emotion, label_smoothing=LABEL_SMOOTHING)
            for logits in (motion, voice)
        )
        assert isinstance(loss, Tensor)
        return loss, self._add(motion, voice)

    @staticmethod
    def _add(motion: Tensor, voice: Tensor) -> Tensor:
        return motion.log_softmax(dim=1) + voice.log_softmax(dim=1)


class Averaged(EmotionModel):
    """The mean of the probabilities of several `MotionAndVoice`, which are trained already."""

    def __init__(self, sizes: Sizes, *, n_members: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(MotionAndVoice(sizes) for _ in range(n_members))

    def forward(self, tracks: Tensor, spectrogram: Tensor) -> Tensor:
        logits = torch.stack([member(tracks, spectrogram) for member in self.members])
        return logits.log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(self.members))

    def fit(self, emotion: np.ndarray, actor: np.ndarray, *inputs: np.ndarray) -> None:
        """There is nothing left to find."""


def encoders(sizes: Sizes, head: bool = True) -> tuple[MotionNet, VoiceNet]:
    """Both networks, with random weights."""
    n, n_emotions = sizes.model.audio_channels, sizes.n_emotions
    return MotionNet(n, n_emotions, head), VoiceNet(max(1, n // 4), n_emotions, head)


def mean_and_max(x: Tensor) -> Tensor:
    """(clip, channel, moment) to (clip, 2 x channel)."""
    return torch.cat([x.mean(dim=2), x.amax(dim=2)], dim=1)


def hide(x: Tensor, dim: int) -> Tensor:
    """Set two stretches of dimension 1 or 2 to their mean, zero, drawn anew for each clip."""
    at = torch.arange(x.shape[dim], device=x.device)
    for _ in range(2):
        width = torch.rand(len(x), 1, device=x.device) * MASK
        start = torch.rand(len(x), 1, device=x.device) * (x.shape[dim] - width)
        hidden = (at >= start) & (at < start + width)
        x = x.masked_fill(hidden.unsqueeze(3 - dim), 0.0)
    return x


def warp(x: Tensor) -> Tensor:
    """Stretch a random part of each clip (clip, track, moment) over the whole."""
    part = SHORTEST_WARP + (1 - SHORTEST_WARP) * torch.rand(len(x), 1, device=x.device)
    start = (1 - part) * torch.rand(len(x), 1, device=x.device)
    at = 2 * (start + part * torch.linspace(0, 1, x.shape[2], device=x.device)) - 1
    grid = torch.stack([at, torch.zeros_like(at)], dim=-1)[:, None]  # clip 1 moment xy
    return F.grid_sample(x[:, :, None], grid, align_corners=True)[:, :, 0]
