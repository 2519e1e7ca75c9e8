"""Every system of the paper's two tables, and of `EXTRA`: one short declarative row each.

Nothing here imports torch before a row is built, so plans and tables stay quick.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from cfnsr.errors import InputError

if TYPE_CHECKING:
    from cfnsr.models.base import EmotionModel, Sizes

FusionStage = Literal["-", "Early", "Late", "Model"]
ScheduleName = Literal["video", "audio", "erann", "fusion", "ours", "none"]
ENCODERS = ("video", "audio")
#: The row that all others are compared with.
REFERENCE = "cfn_sr"


@dataclass(frozen=True)
class Row:
    """One system.

    `model` names a class below `cfnsr.models`, `options` its switches: an ablation is a row with
    one switch changed. `schedule` is the part of `training` in params.yaml that it follows; rows
    that follow `fusion` start from the fold's own two encoders; one that follows `none` is fitted
    at once, without epochs. `alias` names the row that is the same system under another name; it is
    not trained again. `members` names the row whose trained networks, one a seed, this one
    averages; their number is the switch `n_members`.
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
    members: str | None = None

    @property
    def starts_from(self) -> tuple[str, ...]:
        """The rows whose runs of the same fold come first."""
        if self.members is not None:
            return (self.members,)
        return ENCODERS if self.schedule == "fusion" else ()

    @property
    def n_members(self) -> int:
        """How many networks, each of a seed of its own, a run is made of."""
        return int(self.options.get("n_members", 1))

    def seeds(self, seeds: Sequence[int]) -> tuple[int, ...]:
        """The seeds of its runs: those given, or 0 for the single run of several networks."""
        return tuple(seeds) if self.members is None else (0,)

    @property
    def uses_video(self) -> bool:
        """Whether it sees the frames, and not only hears or is given statistics."""
        return self.schedule in ("video", "fusion")

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
    "multiplicative": Row(
        "Multiplicative β=0.3",
        "Late",
        "late_fusion.Multiplicative",
        70.35,
        25.92,
        note="decides for the class of the smallest weighted loss, as its authors do",
    ),
    "multiplication": Row("Multiplication", "Late", "late_fusion.Multiplication", 70.56, 25.92),
    "concat_fc": Row(
        "Concat + FC",
        "Early",
        "early_fusion.ConcatFC",
        71.04,
        26.87,
        note="widths 256 and 128 give the paper's count, but others may too",
    ),
    "mcbp": Row(
        "MCBP",
        "Early",
        "early_fusion.MCBP",
        71.32,
        51.03,
        note="d = 16,000 as its authors'; the paper's 51.03 M is not reproduced: 26.01 M at full "
        "size",
    ),
    "mmtm": Row(
        "MMTM",
        "Model",
        "mmtm.MMTM",
        73.12,
        31.97,
        note="two modules, ratio 4, mean of both heads; the paper's 31.97 M is not reproduced: "
        "31.50 M at full size",
    ),
    "msaf": Row(
        "MSAF",
        "Model",
        "msaf.MSAF",
        74.86,
        25.94,
        note="block sizes, places, dropout and summed logits as its authors'",
    ),
    "erann": Row(
        "ERANNs",
        "Model",
        "erann.ERANN",
        74.80,
        note="an audio-only network on log-mel spectrograms, filed under Model in the paper; "
        "ERANN-0-4 without pretraining or augmentation",
        schedule="erann",
    ),
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

# Not in the paper; printed below both tables.
EXTRA: dict[str, Row] = {
    "linear": Row(
        "Linear yardstick",
        "Early",
        "linear.Linear",
        note="logistic regression on statistics of the clip's landmarks and MFCCs; no epochs",
        schedule="none",
    ),
    "motion_voice": Row(
        "Motion and voice (ours)",
        "Late",
        "motion_voice.MotionAndVoice",
        note="two small networks, on landmark tracks and on the log-mel spectrogram, whose log "
        "odds are added; settings chosen on RAVDESS's actors 1 to 4",
        schedule="ours",
    ),
    "motion_voice_averaged": Row(
        "Motion and voice, averaged (ours)",
        "Late",
        "motion_voice.Averaged",
        note="the mean probability of three networks of the row above, which differ by their seed, "
        "after their last epoch, and so the same under every rule",
        options={"n_members": 3},
        schedule="none",
        members="motion_voice",
    ),
    "cfn_sr_released": Row(
        "CFN-SR as released",
        "Model",
        CFN_SR.model,
        note="no ReLU after the video stem, and attention maps summed over the batch: a clip's "
        "logits depend on which clips share its batch",
        options={"stem_relu": False, "batch_summed_attention": True},
    ),
}

ROWS: dict[str, Row] = TABLE_1 | TABLE_2 | EXTRA


def find(name: str) -> Row:
    """The row of that name.

    Raises:
        InputError: there is none; the message lists all.
    """
    if name not in ROWS:
        raise InputError(f"row: expected all or one of {', '.join(ROWS)}; found {name}")
    return ROWS[name]


def needs_seeds(name: str, seeds: Sequence[int]) -> None:
    """Check that there are as many seeds as a row has members.

    Raises:
        InputError: there are fewer.
    """
    n_members = find(name).n_members
    if n_members > len(seeds):
        raise InputError(
            f"row {name} takes {n_members} seeds, but seeds is {list(seeds)}; add others"
        )
