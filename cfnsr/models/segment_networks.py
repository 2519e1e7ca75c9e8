"""The two networks of the hybrid deep model, each shown one segment of a clip at a time.

Their `fc7`, the values before the last layer, is what the rows of `cfnsr.models.hybrid` fuse.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfnsr.data.segments import N_BANDS, N_CHANNELS
from cfnsr.models.base import N_FC7, EmotionModel, Sizes, narrow
from cfnsr.models.resnext import Conv3d, FirstConv3d
from cfnsr.params import Hybrid

#: Keeps the logarithm of a vote finite.
_LEAST = 1e-6


class AlexNet(nn.Module):
    """Pictures (n, 3, 227, 227) to fc7 and logits: torchvision's network, at any `width`.

    Its names are torchvision's, so that the ImageNet weights from there fit at width 1.
    """

    def __init__(self, hybrid: Hybrid, n_classes: int) -> None:
        super().__init__()
        dropout = hybrid.dropout
        a, b, c, d, e = (narrow(n, hybrid.width) for n in (64, 192, 384, 256, N_FC7))
        self.features = nn.Sequential(
            *(nn.Conv2d(3, a, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(b, c, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(c, d, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(d, d, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)  # at 227 pixels they are there already
        self.classifier = nn.Sequential(
            *(nn.Dropout(dropout), nn.Linear(36 * d, e), nn.ReLU()),
            *(nn.Dropout(dropout), nn.Linear(e, e), nn.ReLU()),
            nn.Linear(e, n_classes),
        )
        self.apply(_initialise)

    def embed(self, pictures: Tensor) -> Tensor:
        """The values before the last layer, (n, unit)."""
        return self.classifier[:-1](self.avgpool(self.features(pictures)).flatten(1))

    def classify(self, fc7: Tensor) -> Tensor:
        return self.classifier[-1](fc7)


class C3D(nn.Module):
    """Frames (n, 3 or 1, frame, S, S) to fc7 and logits: 8 convolutions, 5 pools, 3 linear layers.

    At full size for 16 frames of 112 x 112 pixels (Tran et al. 2015). The names are those of the
    public Sports-1M weights for PyTorch: conv1, conv2, conv3a, conv3b, ..., conv5b, fc6, fc7, fc8,
    each .weight and .bias. These expect values of up to 255 and ours have unit variance, so
    multiply conv1.weight by 57 (255 times the mean of `RGB_SD`) before using them.
    """

    def __init__(self, hybrid: Hybrid, n_classes: int) -> None:
        super().__init__()
        n_frames, size = hybrid.n_frames, hybrid.frame_size
        a, b, c, d, e = (narrow(n, hybrid.width) for n in (64, 128, 256, 512, N_FC7))
        self.conv1, self.conv2 = FirstConv3d(3, a, 3, padding=1), _conv3d(a, b)
        self.conv3a, self.conv3b = _conv3d(b, c), _conv3d(c, c)
        self.conv4a, self.conv4b = _conv3d(c, d), _conv3d(d, d)
        self.conv5a, self.conv5b = _conv3d(d, d), _conv3d(d, d)
        # Nothing is left over at full size; smaller pictures and fewer frames round up.
        self.pool1 = nn.MaxPool3d((1, 2, 2), ceil_mode=True)
        self.pool = nn.MaxPool3d(2, ceil_mode=True)
        self.pool5 = nn.MaxPool3d(2, padding=(0, 1, 1), ceil_mode=True)
        n_positions = math.ceil(n_frames / 16) * (math.ceil(size / 16) // 2 + 1) ** 2
        self.fc6 = nn.Linear(d * n_positions, e)
        self.fc7 = nn.Linear(e, e)
        self.fc8 = nn.Linear(e, n_classes)
        self.dropout = nn.Dropout(hybrid.dropout)
        self.apply(_initialise)
        self.to(memory_format=torch.channels_last_3d)

    def embed(self, frames: Tensor) -> Tensor:
        """The values before the last layer, (n, unit)."""
        x = self.pool1(F.relu(self.conv1(frames)))
        x = self.pool(F.relu(self.conv2(x)))
        x = self.pool(F.relu(self.conv3b(F.relu(self.conv3a(x)))))
        x = self.pool(F.relu(self.conv4b(F.relu(self.conv4a(x)))))
        x = self.pool5(F.relu(self.conv5b(F.relu(self.conv5a(x)))))
        x = self.dropout(F.relu(self.fc6(x.flatten(1))))
        return self.dropout(F.relu(self.fc7(x)))

    def classify(self, fc7: Tensor) -> Tensor:
        return self.fc8(fc7)


class SegmentNetwork(EmotionModel):
    """A network, its only part: a clip is what most of its segments are taken for.

    An epoch trains on one segment of each clip, drawn at random.
    """

    @property
    def network(self) -> Any:
        (network,) = self.children()
        return network

    def segments(self, clips: Tensor) -> Tensor:
        """What the row is given of clips, (clip, segment, ...)."""
        raise NotImplementedError

    def embed(self, segment: Tensor) -> Tensor:
        """Its fc7, (n, unit)."""
        return self.network.embed(segment)

    def loss(self, emotion: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        segments = self.segments(*inputs)
        n_clips, n_segments = segments.shape[:2]
        drawn = torch.randint(n_segments, (n_clips,), device=segments.device)
        chosen = segments[torch.arange(n_clips, device=segments.device), drawn]
        logits = self.network.classify(self.embed(chosen))
        return F.cross_entropy(logits, emotion), logits

    def fc7(self, clips: Tensor) -> Tensor:
        """Of each segment, (clip, unit, segment)."""
        one_by_one = self.segments(clips).unbind(1)
        return torch.stack([self.embed(segment) for segment in one_by_one], dim=2)

    def forward(self, clips: Tensor) -> Tensor:
        """Log of the share of segments' votes; their mean probability is a last vote, for ties."""
        logits = self.network.classify(self.fc7(clips).transpose(1, 2)).float()
        votes = (logits == logits.amax(dim=2, keepdim=True)).float().sum(dim=1)
        last = logits.softmax(dim=2).mean(dim=1).clamp(min=_LEAST)
        return ((votes + last) / (logits.shape[1] + 1)).log()


class HeardSegments(SegmentNetwork):
    """AlexNet on log-mel segments (clip, 192, segment, 64): three channels as of a picture."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.size = sizes.hybrid.picture_size
        self.audio = AlexNet(sizes.hybrid, sizes.n_emotions)

    def segments(self, clips: Tensor) -> Tensor:
        """(clip, segment, 3, 64, 64)."""
        return clips.unflatten(1, (N_CHANNELS, N_BANDS)).movedim(3, 1)

    def embed(self, segment: Tensor) -> Tensor:
        """As pictures of the size that AlexNet takes."""
        return super().embed(F.interpolate(segment, (self.size, self.size), mode="bilinear"))


class SeenSegments(SegmentNetwork):
    """C3D on the frames beside the segments, (clip, 3 or 1, segment * frame, S, S)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.n_frames = sizes.hybrid.n_frames
        self.video = C3D(sizes.hybrid, sizes.n_emotions)

    def segments(self, clips: Tensor) -> Tensor:
        """(clip, segment, 3 or 1, frame, S, S)."""
        return clips.unflatten(2, (-1, self.n_frames)).movedim(2, 1)


def _conv3d(n_in: int, n_out: int) -> nn.Conv3d:
    return Conv3d(n_in, n_out, 3, padding=1)


def _initialise(layer: nn.Module) -> None:
    """He et al.'s, without which such networks do not start to learn from random weights."""
    if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.Linear) and layer.bias is not None:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
