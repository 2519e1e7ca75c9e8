"""MSAF, a baseline: attention over blocks of channels of both modalities (section 3.3, item 5)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfnsr.models.base import EmotionModel, Sizes
from cfnsr.models.mfcc_cnn import MFCCNet
from cfnsr.models.resnext import ResNeXt, average_pool


class SplitAttention(nn.Module):
    r"""Channels are split into blocks of c; the blocks of both modalities compete.

    With :math:`\overline{B_i}` the mean of block i over space and time, over all blocks of both

    .. math::
        z &= \mathrm{ReLU}(\mathrm{BN}(W \textstyle\sum_i \overline{B_i} + b)) \\
        \alpha_i &= \mathrm{softmax}_i(W_i z + b_i) \\
        \tilde B_i &= \alpha_i \odot B_i

    z has c / `reduction` entries; the softmax runs over the blocks, for each of the c channels.
    In training, whole blocks are dropped with probability `dropout`. A last block that is not
    full is filled with zeros. Source: Su et al. 2020 and their code. Departure: their code
    scales the blocks that it keeps by 1 / (1 - dropout) twice, which raises their mean in
    training; here it is done once.
    """

    def __init__(
        self,
        n_video: int,
        n_audio: int,
        n_block_channels: int,
        reduction: int = 4,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.n_block_channels = n_block_channels
        self.n_blocks = [math.ceil(n / n_block_channels) for n in (n_video, n_audio)]
        n_reduced = max(1, n_block_channels // reduction)
        self.squeeze = nn.Linear(n_block_channels, n_reduced)
        self.norm = nn.BatchNorm1d(n_reduced)
        self.excite = nn.Linear(n_reduced, n_block_channels * sum(self.n_blocks))  # all W_i, b_i
        self.dropout = nn.Dropout(dropout)

    def forward(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Video (clip, channel, S, H, W) and audio (clip, channel, token), each reweighted."""
        means = torch.cat([self.blocks(average_pool(video)), self.blocks(audio.mean(dim=2))], dim=1)
        kept = self.dropout(torch.ones_like(means[:, :, :1]))  # clip block 1
        joint = (kept * means).sum(dim=1)
        z = F.relu(self.norm(self.squeeze(joint)))
        gates = kept * self.excite(z).view_as(means).softmax(dim=1)
        video_gate, audio_gate = (
            modality.flatten(start_dim=1) for modality in gates.split(self.n_blocks, dim=1)
        )
        return (
            video * video_gate[:, : video.shape[1], None, None, None],
            audio * audio_gate[:, : audio.shape[1], None],
        )

    def blocks(self, means: Tensor) -> Tensor:
        """(clip, channel) to (clip, block, n_block_channels), zero-padded."""
        padded = F.pad(means, (0, -means.shape[1] % self.n_block_channels))
        return padded.unflatten(1, (-1, self.n_block_channels))


class MSAF(EmotionModel):
    """Table 1, "MSAF": a block after layer3 and the max-pool, one after layer4 and conv3.

    The logits are the sum of both heads' logits. Departures from its authors' code: there the
    first block stands before the audio network's max-pool (its gates, being positive, commute
    with the pool; only the audio mean that they depend on differs), and the ReLU after the video
    stem is skipped.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.video = ResNeXt(sizes)
        self.audio = MFCCNet(sizes)
        # Two blocks of audio channels each time, as at full size: 16 of 32, 32 of 64.
        self.middle_attention = SplitAttention(
            self.video.n_middle_channels,
            self.audio.n_middle_channels,
            math.ceil(self.audio.n_middle_channels / 2),
        )
        self.top_attention = SplitAttention(
            self.video.n_channels, self.audio.n_channels, math.ceil(self.audio.n_channels / 2)
        )

    def forward(self, frames: Tensor, mfcc: Tensor) -> Tensor:
        video, audio = self.middle_attention(self.video.middle(frames), self.audio.middle(mfcc))
        video, audio = self.top_attention(self.video.layer4(video), self.audio.top(audio))
        return self.video.classify(video) + self.audio.classify(audio)
