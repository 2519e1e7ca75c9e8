"""MMTM, a baseline: two networks that rescale each other's channels (section 3.3, item 4)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfnsr.models.base import EmotionModel, Sizes
from cfnsr.models.mfcc_cnn import MFCCNet
from cfnsr.models.resnext import ResNeXt, average_pool


class TransferModule(nn.Module):
    r"""Both modalities are squeezed into one vector, which rescales the channels of each.

    .. math::
        Z &= \mathrm{ReLU}(W [\overline{X_V}, \overline{X_A}] + b) \\
        \tilde X_m &= \sigma(W_m Z + b_m) \odot X_m

    The bar is the mean over space and time, so the two may differ in shape. Z has
    2 (channels of both) / `ratio` entries. Source: Joze et al. 2020 and their code.
    """

    def __init__(self, n_video: int, n_audio: int, ratio: int = 4) -> None:
        super().__init__()
        n_joint = 2 * (n_video + n_audio) // ratio
        self.squeeze = nn.Linear(n_video + n_audio, n_joint)
        self.excite_video = nn.Linear(n_joint, n_video)
        self.excite_audio = nn.Linear(n_joint, n_audio)

    def forward(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Video (clip, channel, S, H, W) and audio (clip, channel, token), each rescaled."""
        joint = torch.cat([average_pool(video), audio.mean(dim=2)], dim=1)
        z = F.relu(self.squeeze(joint))
        video_gate = self.excite_video(z).sigmoid()  # clip channel
        audio_gate = self.excite_audio(z).sigmoid()
        return video * video_gate[:, :, None, None, None], audio * audio_gate[:, :, None]


class MMTM(EmotionModel):
    """Table 1, "MMTM": transfer after layer3 and the max-pool, and after layer4 and conv3.

    The logits are the mean of both heads' logits, as in its authors' code, which however steps
    each network on the loss of its own head, with learning rate and weight decay 0.0001.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.video = ResNeXt(sizes)
        self.audio = MFCCNet(sizes)
        self.middle_transfer = TransferModule(
            self.video.n_middle_channels, self.audio.n_middle_channels
        )
        self.top_transfer = TransferModule(self.video.n_channels, self.audio.n_channels)

    def forward(self, frames: Tensor, mfcc: Tensor) -> Tensor:
        video, audio = self.middle_transfer(self.video.middle(frames), self.audio.middle(mfcc))
        video, audio = self.top_transfer(self.video.layer4(video), self.audio.top(audio))
        return (self.video.classify(video) + self.audio.classify(audio)) / 2
