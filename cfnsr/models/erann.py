"""ERANN, a baseline: a residual 2D CNN on log-mel spectrograms (section 3.3, item 6)."""

import torch.nn.functional as F
from torch import Tensor, nn

from cfnsr.data.audio import N_MELS
from cfnsr.models.base import EmotionModel, Sizes

N_STAGES = 5
MAX_BLOCKS_PER_STAGE = 4


class ResidualBlock(nn.Module):
    """BN, leaky ReLU, 3x3 convolution, twice, around an identity or 1x1 shortcut.

    `preactivated=False` leaves the first BN and leaky ReLU out.
    """

    def __init__(self, n_in: int, n_out: int, stride: int, preactivated: bool = True) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(n_in) if preactivated else None
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and n_in == n_out
            else nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.bn1 is None else F.leaky_relu(self.bn1(x))
        y = self.conv2(F.leaky_relu(self.bn2(self.conv1(y))))
        return y + self.shortcut(x)


class ERANN(EmotionModel):
    """Table 1, "ERANNs": audio only, log-mel spectrograms (clip, 128, time) to logits.

    Five stages of four residual blocks, of width 8 W, 16 W, ..., 128 W; from the second on, each
    halves bands and frames. The mean plus the maximum over both passes two linear layers.
    Source: Verbitskiy & Vyshegorodtsev 2021, ERANN-0-4, the name that their RAVDESS result goes
    by: no stage has a stride of 4 in time, and W = 4, which fits their "3.3 times smaller" than
    the previous best of 79.7 M. Smaller with the video network: `stem_channels` is 16 W, and a
    stage has no more blocks than the longest of `n_blocks`.

    Choices of this project: the bands are batch-normalised first, and the first block therefore
    has no BN and leaky ReLU of its own, which would discard what lies below the mean. It trains
    from random weights, without pretraining or augmentation.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.band_norm = nn.BatchNorm1d(N_MELS)
        n_blocks = min(MAX_BLOCKS_PER_STAGE, max(sizes.model.n_blocks))
        n_in = 1
        blocks = []
        for stage in range(N_STAGES):
            n_out = max(1, sizes.model.stem_channels // 2) * 2**stage
            for block in range(n_blocks):
                first = stage == 0 and block == 0
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(ResidualBlock(n_in, n_out, stride, preactivated=not first))
                n_in = n_out
        self.blocks = nn.Sequential(*blocks)
        self.fc1 = nn.Linear(n_in, n_in)
        self.fc2 = nn.Linear(n_in, sizes.n_emotions)

    def forward(self, log_mel: Tensor) -> Tensor:
        x = self.blocks(self.band_norm(log_mel)[:, None])  # clip channel band time
        pooled = x.mean(dim=(2, 3)) + x.amax(dim=(2, 3))
        return self.fc2(F.leaky_relu(self.fc1(pooled)))
