"""CFN-SR: cross-modal blocks between the two encoders (section 2.3-2.4, eqs. 5-9)."""

from typing import Literal

import torch
from torch import Tensor, nn

from cfnsr.models.base import EmotionModel, Sizes
from cfnsr.models.encoder import Encoder
from cfnsr.models.mfcc_cnn import MFCCNet
from cfnsr.models.resnext import ResNeXt, average_pool

SoftmaxOver = Literal["slice", "clip"]


class CrossModalAttention(nn.Module):
    r"""A map over the positions of one modality, asked for by a summary of the other (eq. 7).

    .. math:: \hat X_q = \tanh((W_v \hat X_V + b_v) + W_a \hat X_A)

    The paper applies the softmax of eq. 8 to X_q itself; its code first takes a linear map from
    the k channels to one score a position, and so does this. `softmax_over` says whether the
    scores of a time slice compete (the release) or those of the whole clip (a reading of the
    paper's k x S x H x W).
    """

    def __init__(
        self, n_channels: int, n_summary: int, k: int, softmax_over: SoftmaxOver = "slice"
    ) -> None:
        super().__init__()
        self.position_affine = nn.Linear(n_channels, k)  # W_v, b_v
        self.summary_affine = nn.Linear(n_summary, k, bias=False)  # W_a
        self.score = nn.Linear(k, 1)
        self.softmax_over = softmax_over

    def forward(self, features: Tensor, summary: Tensor) -> Tensor:
        """Features (clip, channel, S, H, W) and summary (clip, n_summary) to a map (clip, S, H, W).

        The map sums to one over each time slice, or over the clip.
        """
        positions = self.position_affine(features.movedim(1, -1))  # clip S H W k
        x_q = torch.tanh(positions + self.summary_affine(summary)[:, None, None, None, :])
        scores = self.score(x_q).squeeze(-1)
        competing = scores.flatten(2 if self.softmax_over == "slice" else 1)
        return competing.softmax(dim=-1).view_as(scores)


class CFNSR(EmotionModel):
    r"""The paper's network, and by its switches the rows of Table 2 and the release.

    .. math::
        \hat X_o &= (\mathrm{softmax}(\hat X_q) \otimes \hat X_V) \oplus \hat X_V \quad (8) \\
        \mathrm{prediction} &= W_1 [\hat X_o, \hat X_A] + b_1 \quad (9)

    X_o is average-pooled before it is spliced with the flattened X_A, which is the audio encoder's
    own, not the self-attended one (eq. 9 leaves it open; release).

    Args:
        self_attention: encode X_A before its last token asks; otherwise X_A's own last token asks.
        residual: add X_V in eq. 8.
        stem_relu: the ReLU after the video stem, which the release skips.
        softmax_over: see `CrossModalAttention`.
        batch_summed_attention: the release's bug. It adds up the maps of all clips of the batch,
            so a clip's logits depend on its neighbours.
    """

    def __init__(
        self,
        sizes: Sizes,
        *,
        self_attention: bool = True,
        residual: bool = True,
        stem_relu: bool = True,
        softmax_over: SoftmaxOver = "slice",
        batch_summed_attention: bool = False,
    ) -> None:
        super().__init__()
        self.video = ResNeXt(sizes, head=False, stem_relu=stem_relu)
        self.audio = MFCCNet(sizes, head=False)
        k = self.audio.n_channels
        self.encoder = (
            Encoder(k, sizes.model.n_encoder_layers, sizes.model.n_heads)
            if self_attention
            else None
        )
        self.attention = CrossModalAttention(self.video.n_channels, k, k, softmax_over)
        self.head = nn.Linear(self.video.n_channels + self.audio.n_features, sizes.n_emotions)
        self.residual = residual
        self.batch_summed_attention = batch_summed_attention

    def forward(self, frames: Tensor, mfcc: Tensor) -> Tensor:
        x_v, x_a = self.video.features(frames), self.audio.features(mfcc)
        tokens = x_a.transpose(1, 2) if self.encoder is None else self.encoder(x_a)
        attention = self.attention(x_v, tokens[:, -1])  # clip S H W
        if self.batch_summed_attention:
            attention = attention.sum(dim=0, keepdim=True)
        x_o = attention[:, None] * x_v
        if self.residual:
            x_o = x_o + x_v
        return self.head(torch.cat([average_pool(x_o), self.audio.flatten(x_a)], dim=1))


class NoCrossModal(EmotionModel):
    """Table 2, "w/o Cross-modal Blocks": eq. 9 on the pooled X_V and the flattened X_A."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.video = ResNeXt(sizes, head=False)
        self.audio = MFCCNet(sizes, head=False)
        self.head = nn.Linear(self.video.n_channels + self.audio.n_features, sizes.n_emotions)

    def forward(self, frames: Tensor, mfcc: Tensor) -> Tensor:
        x_v, x_a = self.video.features(frames), self.audio.features(mfcc)
        return self.head(torch.cat([average_pool(x_v), self.audio.flatten(x_a)], dim=1))


class VideoToAudio(EmotionModel):
    """Table 2, "V->A": the pooled video asks, the audio tokens are attended to.

    No code was released for it. Roles are swapped and nothing else: the encoded tokens take the
    place of the positions (one slice of 26), X_A is weighted and added as X_V was in eq. 8, and
    the pooled, unchanged X_V is spliced to it.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.video = ResNeXt(sizes, head=False)
        self.audio = MFCCNet(sizes, head=False)
        k = self.audio.n_channels
        self.encoder = Encoder(k, sizes.model.n_encoder_layers, sizes.model.n_heads)
        self.attention = CrossModalAttention(k, self.video.n_channels, k)
        self.head = nn.Linear(self.video.n_channels + self.audio.n_features, sizes.n_emotions)

    def forward(self, frames: Tensor, mfcc: Tensor) -> Tensor:
        x_a = self.audio.features(mfcc)
        summary = average_pool(self.video.features(frames))
        tokens = self.encoder(x_a).transpose(1, 2)[:, :, None, None, :]  # clip k 1 1 token
        attention = self.attention(tokens, summary).flatten(1)  # clip token
        x_o = attention[:, None] * x_a + x_a
        return self.head(torch.cat([summary, self.audio.flatten(x_o)], dim=1))
