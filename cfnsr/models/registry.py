"""Every system of the paper's two tables: one short declarative row each.

Nothing here imports torch before a row is built, so plans and tables stay quick.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from cfnsr.errors import InputError

if TYPE_CHECKING:
    from cfnsr.models.base import EmotionModel, Sizes

FusionStage = Literal["-", "Early", "Late", "Model"]
ScheduleName = Literal["video", "audio", "fusion"]


@dataclass(frozen=True)
class Row:
    """One system.

    `model` names a class below `cfnsr.models`, `options` its switches: an ablation is a row with
    one switch changed. `schedule` is the part of `training` in params.yaml that it follows; rows
    that follow `fusion` start from the fold's own two encoders. `alias` names the row that is
    the same system under another name; it is not trained again.
    """

    label: str
    fusion_stage: FusionStage
    model: str
    paper_accuracy_pct: float | None = None
    paper_params_millions: float | None = None
    note: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: ScheduleName = "fusion"
    alias: str | None = None

    @property
    def starts_from_encoders(self) -> bool:
        return self.schedule == "fusion"

    def build(self, sizes: "Sizes") -> "EmotionModel":
        """A freshly initialised model; the caller seeds torch and chooses the device."""
        module, _, name = self.model.partition(".")
        model: EmotionModel = getattr(import_module(f"cfnsr.models.{module}"), name)(
            sizes, **self.options
        )
        return model

    def n_parameters(self, sizes: "Sizes") -> int:
        """The number of trainable parameters, counted without allocating them."""
        import torch

        with torch.device("meta"):
            return sum(p.numel() for p in self.build(sizes).parameters() if p.requires_grad)


CFN_SR = Row("CFN-SR", "Model", "cross_modal.CFNSR", 75.76, 26.30)

TABLE_1: dict[str, Row] = {
    "video": Row("3D ResNeXt50 (Vid.)", "-", "resnext.VideoOnly", 62.99, 25.88, schedule="video"),
    "audio": Row("1D CNN (Aud.)", "-", "mfcc_cnn.AudioOnly", 56.53, 0.03, schedule="audio"),
    "averaging": Row("Averaging", "Late", "late_fusion.Averaging", 68.82, 25.92),
    "multiplication": Row("Multiplication", "Late", "late_fusion.Multiplication", 70.56, 25.92),
    "cfn_sr": CFN_SR,
}

TABLE_2: dict[str, Row] = {
    "cfn_sr": CFN_SR,
    "no_cross_modal": Row(
        "w/o Cross-modal Blocks", "Model", "cross_modal.NoCrossModal", 73.50, 25.92
    ),
    "video_to_audio": Row(
        "V->A Cross-modal",
        "Model",
        "cross_modal.VideoToAudio",
        74.15,
        25.67,
        note="the paper's 25.67 M is impossible: its two headless trunks alone have 25.89 M",
    ),
    "audio_to_video": Row(
        "A->V Cross-modal",
        "Model",
        CFN_SR.model,
        75.76,
        26.30,
        note="CFN-SR under another name",
        alias="cfn_sr",
    ),
    "no_self_attention": Row(
        "w/o self-attention",
        "Model",
        "cross_modal.CFNSR",
        73.86,
        26.05,
        options={"self_attention": False},
    ),
    "no_residual": Row(
        "w/o residual", "Model", "cross_modal.CFNSR", 75.33, 26.30, options={"residual": False}
    ),
}

ROWS: dict[str, Row] = TABLE_1 | TABLE_2
ENCODERS = ("video", "audio")


def find(name: str) -> Row:
    """The row of that name.

    Raises:
        InputError: there is none; the message lists all.
    """
    if name not in ROWS:
        raise InputError(f"row: expected all or one of {', '.join(ROWS)}; found {name}")
    return ROWS[name]
