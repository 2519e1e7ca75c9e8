"""3D ResNeXt, the video encoder (section 2.2, eq. 4; Xie et al. 2017, Hara et al. 2018).

Parameter names are those of the public 3D-ResNet checkpoints and of the release.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfnsr.models.base import EmotionModel, Sizes

EXPANSION = 2


class Conv3d(nn.Conv3d):
    """A 3D convolution that computes in float32 where bfloat16 on a CPU goes wrong.

    Measured with torch 2.15: with fewer frames than the kernel is long, oneDNN's bfloat16 gradient
    of the weights is wrong and can be written outside its memory (at full size: layer4's). A
    stride that leaves a width of 1 is wrong already in the forward pass (PyTorch issue 169688).
    """

    def forward(self, x: Tensor) -> Tensor:
        too_few_frames = x.shape[2] < self.kernel_size[0]
        leaves_one_column = x.shape[-1] <= self.stride[-1] > 1
        if x.device.type == "cpu" and (too_few_frames or leaves_one_column):
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float())
        return super().forward(x)


class FirstConv3d(Conv3d):
    """The convolution of frames: in colour, or grey as if all their channels were the same.

    One channel with the sum of a filter's weights is the same function for a third of the work. A
    processor computes on vectors of channels, so the frames below a filter become channels of a
    2D convolution; its stride along frames is 1. The video network trains 1.9 times as fast (AVX2).
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == self.in_channels:
            return super().forward(x)
        weight = self.weight.sum(dim=1)  # channel time height width
        if x.device.type != "cpu":
            return F.conv3d(x, weight[:, None], self.bias, self.stride, self.padding)
        n_below, n_before = self.kernel_size[0], int(self.padding[0])
        below = F.pad(x[:, 0], (0, 0, 0, 0, n_before, n_before)).unfold(1, n_below, 1)
        pictures = below.flatten(0, 1).movedim(-1, 1)  # clip*frame time height width
        weight = weight.contiguous(memory_format=torch.channels_last)
        found = F.conv2d(pictures, weight, self.bias, self.stride[1:], self.padding[1:])
        # Not `len(x)`, which a network that is exported would take for its number of clips.
        return found.unflatten(0, (x.shape[0], -1)).movedim(1, 2)


class Bottleneck(nn.Module):
    """1x1x1, grouped 3x3x3, 1x1x1 convolutions around an identity or projection shortcut."""

    def __init__(self, n_in: int, n_inner: int, cardinality: int, stride: int) -> None:
        super().__init__()
        n_out = n_inner * EXPANSION
        self.conv1 = Conv3d(n_in, n_inner, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm3d(n_inner)
        self.conv2 = Conv3d(
            n_inner, n_inner, 3, stride=stride, padding=1, groups=cardinality, bias=False
        )
        self.bn2 = nn.BatchNorm3d(n_inner)
        self.conv3 = Conv3d(n_inner, n_out, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm3d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or n_in != n_out:
            self.downsample = nn.Sequential(
                Conv3d(n_in, n_out, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm3d(n_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNeXt(nn.Module):
    """Frames (clip, 3 or 1, frame, height, width) to X_V (clip, channel, S, H, W).

    At full size, 30 frames of 224 x 224 give X_V of (2048, 2, 7, 7). `head=False` leaves the
    classifier out. `stem_relu=False` is the release's stem, which skips its ReLU.
    """

    def __init__(self, sizes: Sizes, head: bool = True, stem_relu: bool = True) -> None:
        super().__init__()
        n_stem, cardinality = sizes.model.stem_channels, sizes.model.cardinality
        self.conv1 = FirstConv3d(
            3, n_stem, kernel_size=7, stride=(1, 2, 2), padding=3, bias=False
        )  # time keeps its length, space halves
        self.bn1 = nn.BatchNorm3d(n_stem)
        self.relu = nn.ReLU(inplace=True) if stem_relu else nn.Identity()
        self.maxpool = nn.MaxPool3d(kernel_size=3, stride=2, padding=1)

        # Inner widths 128, 256, 512, 1024 at full size: twice the stem, doubling by stage.
        n_in = n_stem
        stages = []
        for i, n_blocks in enumerate(sizes.model.n_blocks):
            n_inner = n_stem * 2 ** (i + 1)
            blocks = []
            for j in range(n_blocks):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(Bottleneck(n_in, n_inner, cardinality, stride))
                n_in = n_inner * EXPANSION
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.n_channels = n_in
        self.n_middle_channels = n_in // 2
        self.fc = nn.Linear(n_in, sizes.n_emotions) if head else None

        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        # Grouped 3D convolutions are up to twice as fast on this layout; the numbers are the same.
        self.to(memory_format=torch.channels_last_3d)

    def middle(self, frames: Tensor) -> Tensor:
        """Up to and including layer3: (clip, n_middle_channels, time, height, width)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(frames))))
        return self.layer3(self.layer2(self.layer1(x)))

    def features(self, frames: Tensor) -> Tensor:
        """X_V, (clip, n_channels, S, H, W) (eq. 4)."""
        return self.layer4(self.middle(frames))

    def classify(self, features: Tensor) -> Tensor:
        """Logits from X_V; needs `head=True`."""
        assert self.fc is not None, "built with head=False"
        return self.fc(average_pool(features))

    def forward(self, frames: Tensor) -> Tensor:
        return self.classify(self.features(frames))


def average_pool(features: Tensor) -> Tensor:
    """(clip, channel, S, H, W) to (clip, channel)."""
    return features.mean(dim=(2, 3, 4))


class VideoOnly(EmotionModel):
    """Table 1, "3D ResNeXt50 (Vid.)": the video encoder with its own head."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.video = ResNeXt(sizes)

    def forward(self, frames: Tensor) -> Tensor:
        return self.video(frames)
