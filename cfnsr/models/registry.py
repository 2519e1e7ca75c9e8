"""Every system of the paper's two tables, and more: one short declarative row each.

Nothing here imports torch before a row is built, so tables stay quick.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from cfnsr import InputError

if TYPE_CHECKING:
    from cfnsr.models.base import EmotionModel, Sizes

FusionStage = Literal["-", "Early", "Late", "Model"]
ScheduleName = Literal[
    "video", "audio", "erann", "fusion", "ours", "hybrid_video", "hybrid_audio", "none"
]
#: Which rows are trained together; `hybrid` and `switches` where `row` asks for them by name.
Group = Literal["systems", "hybrid", "switches"]
#: Arrays of a face, see `cfnsr.data.clips.Clips`; the others are of a voice.
_OF_FACE = frozenset({"frames", "landmark_statistics", "motion", "video_fc7"})
#: Inputs that a network of the same fold makes, by the row of that network.
FEATURES = {"video_fc7": "hybrid_video", "audio_fc7": "hybrid_audio"}
#: What a fusion starts from: the row whose weights each of its modules gets.
ENCODERS = {"video": "video", "audio": "audio"}
#: The row that all others are compared with.
REFERENCE = "cfn_sr"
#: So far apart are the seeds of the row that asks what another seed changes.
ANOTHER_SEED = 1000


@dataclass(frozen=True)
class Row:
    """One system.

    `model` names a class below `cfnsr.models`, `options` its switches: an ablation is a row with
    one switch changed. `inputs` names the arrays of a clip that it is given, in the order in which
    the class takes them; whether it sees and hears follows from that. `schedule` is the part of
    `training` in params.yaml that it follows; one that follows `none` is fitted at once, without
    epochs. `starts_from` names, for modules of the model, the rows of the same fold and seed whose
    weights they get, and for inputs of `FEATURES` the rows whose networks made them;
    `members` the row whose trained networks, one per seed, this one averages. `combines` says that
    the row trains nothing: its decisions are computed from those of the rows that it starts from.
    `additive` says that it decides for the emotion of the largest sum of a function of what it sees
    and one of what it hears, see `cfnsr.data.synthetic.design`. `alias` names the row that is the
    same system under another name; it is not trained again. `training` and `preprocess` are values
    of these sections of params.yaml that the row changes, and `seed_step` is added to its seeds.
    """

    label: str
    fusion_stage: FusionStage
    model: str
    paper_accuracy_pct: float | None = None
    paper_params_millions: float | None = None
    note: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ("frames", "mfcc")
    schedule: ScheduleName = "fusion"
    starts_from: Mapping[str, str] = field(default_factory=dict)
    members: str | None = None
    combines: bool = False
    additive: bool = False
    alias: str | None = None
    group: Group = "systems"
    training: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    seed_step: int = 0

    @property
    def predecessors(self) -> tuple[str, ...]:
        """The rows whose runs of the same fold come first."""
        return tuple(self.starts_from.values()) if self.members is None else (self.members,)

    @property
    def n_members(self) -> int:
        """How many networks, each of a seed of its own, a run is made of."""
        return int(self.options.get("n_members", 1))

    def seeds(self, seeds: Sequence[int]) -> tuple[int, ...]:
        """The seeds of its runs: those given, or 0 for the single run of several networks."""
        return tuple(seed + self.seed_step for seed in seeds) if self.members is None else (0,)

    @property
    def of_face(self) -> tuple[str, ...]:
        """Those of its inputs that are of the face."""
        return tuple(name for name in self.inputs if name in _OF_FACE)

    @property
    def of_voice(self) -> tuple[str, ...]:
        """Those of its inputs that are of the voice."""
        return tuple(name for name in self.inputs if name not in _OF_FACE)

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


def _of_decisions(rule: str, paper_accuracy_pct: float) -> Row:
    """A rule that joins what both encoders decide; it trains nothing."""
    return Row(
        rule,
        "Late",
        f"late_fusion.{rule}",
        paper_accuracy_pct,
        25.92,
        note="of the two encoders' probabilities after their last epoch; trains nothing, and so is "
        "the same under every rule",
        schedule="none",
        starts_from=ENCODERS,
        combines=True,
        additive=True,
    )


CFN_SR = Row("CFN-SR", "Model", "cross_modal.CFNSR", 75.76, 26.30, starts_from=ENCODERS)

TABLE_1: dict[str, Row] = {
    "video": Row(
        "3D ResNeXt50 (Vid.)",
        "-",
        "resnext.VideoOnly",
        62.99,
        25.88,
        inputs=("frames",),
        schedule="video",
    ),
    "audio": Row(
        "1D CNN (Aud.)", "-", "mfcc_cnn.AudioOnly", 56.53, 0.03, inputs=("mfcc",), schedule="audio"
    ),
    "averaging": _of_decisions("Averaging", 68.82),
    "multiplicative": Row(
        "Multiplicative β=0.3",
        "Late",
        "late_fusion.Multiplicative",
        70.35,
        25.92,
        note="decides for the class of the smallest weighted loss, and no gradient flows through "
        "the weights, as its authors'",
        starts_from=ENCODERS,
    ),
    "multiplication": _of_decisions("Multiplication", 70.56),
    "concat_fc": Row(
        "Concat + FC",
        "Early",
        "early_fusion.ConcatFC",
        71.04,
        26.87,
        note="widths 256 and 128 give the paper's count, but others may too",
        starts_from=ENCODERS,
    ),
    "mcbp": Row(
        "MCBP",
        "Early",
        "early_fusion.MCBP",
        71.32,
        51.03,
        note="d = 16,000 and dropout as its authors'; the paper's 51.03 M is not reproduced: "
        "26.01 M at full size",
        starts_from=ENCODERS,
    ),
    "mmtm": Row(
        "MMTM",
        "Model",
        "mmtm.MMTM",
        73.12,
        31.97,
        note="two modules, ratio 4, mean of both heads as its authors', but trained on the loss of "
        "that mean, not of each head; the paper's 31.97 M is not reproduced: 31.50 M at full size",
        starts_from=ENCODERS,
    ),
    "msaf": Row(
        "MSAF",
        "Model",
        "msaf.MSAF",
        74.86,
        25.94,
        note="block sizes, dropout and summed logits as its authors', but the first block stands "
        "after the audio network's pool",
        starts_from=ENCODERS,
    ),
    "erann": Row(
        "ERANNs",
        "Model",
        "erann.ERANN",
        74.80,
        note="an audio-only network on log-mel spectrograms, filed under Model in the paper; "
        "ERANN-0-4 without pretraining or augmentation",
        inputs=("log_mel",),
        schedule="erann",
    ),
    "cfn_sr": CFN_SR,
}

TABLE_2: dict[str, Row] = {
    "cfn_sr": CFN_SR,
    "no_cross_modal": Row(
        "w/o Cross-modal Blocks",
        "Model",
        "cross_modal.NoCrossModal",
        73.50,
        25.92,
        additive=True,
        starts_from=ENCODERS,
    ),
    "video_to_audio": Row(
        "V->A Cross-modal",
        "Model",
        "cross_modal.VideoToAudio",
        74.15,
        25.67,
        note="the paper's 25.67 M is impossible: its two headless trunks alone have 25.89 M",
        starts_from=ENCODERS,
    ),
    "audio_to_video": replace(
        CFN_SR, label="A->V Cross-modal", note="CFN-SR under another name", alias="cfn_sr"
    ),
    "no_self_attention": replace(
        CFN_SR,
        label="w/o self-attention",
        paper_accuracy_pct=73.86,
        paper_params_millions=26.05,
        options={"self_attention": False},
    ),
    "no_residual": replace(
        CFN_SR, label="w/o residual", paper_accuracy_pct=75.33, options={"residual": False}
    ),
}


def _on_motion_and_voice(
    fusion: str, model: str, fusion_stage: FusionStage, additive: bool = False
) -> Row:
    """A fusion of the paper's on the two networks of the row `motion_voice`."""
    return Row(
        f"Motion and voice, {fusion} (ours)",
        fusion_stage,
        f"stronger_encoders.{model}",
        note="goes on training the two networks of the row Motion and voice",
        inputs=("motion", "coarse_log_mel"),
        starts_from={"motion": "motion_voice", "voice": "motion_voice"},
        additive=additive,
    )


# Not in the paper; printed below both tables.
EXTRA: dict[str, Row] = {
    "linear": Row(
        "Linear yardstick",
        "Early",
        "linear.Linear",
        note="logistic regression on statistics of the clip's landmarks and MFCCs; no epochs",
        inputs=("landmark_statistics", "mfcc_statistics"),
        additive=True,
        schedule="none",
    ),
    "motion_voice": Row(
        "Motion and voice (ours)",
        "Late",
        "motion_voice.MotionAndVoice",
        note="two small networks, on landmark tracks and on the log-mel spectrogram, whose log "
        "odds are added; settings chosen on RAVDESS's actors 1 to 4",
        inputs=("motion", "coarse_log_mel"),
        schedule="ours",
        additive=True,
    ),
    "motion_voice_averaged": Row(
        "Motion and voice, averaged (ours)",
        "Late",
        "motion_voice.Averaged",
        note="the mean probability of three networks of the row above, which differ by their seed, "
        "after their last epoch, and so the same under every rule",
        inputs=("motion", "coarse_log_mel"),
        options={"n_members": 3},
        schedule="none",
        members="motion_voice",
    ),
    "motion_voice_spliced": _on_motion_and_voice("spliced", "Spliced", "Model", additive=True),
    "motion_voice_concat_fc": _on_motion_and_voice("Concat + FC", "ConcatFC", "Early"),
    "motion_voice_msaf": _on_motion_and_voice("MSAF", "MSAF", "Model"),
    "motion_voice_cross_modal": _on_motion_and_voice("CFN-SR's blocks", "CrossModal", "Model"),
    "cfn_sr_released": Row(
        "CFN-SR as released",
        "Model",
        CFN_SR.model,
        note="no ReLU after the video stem, and attention maps summed over the batch: a clip's "
        "logits depend on which clips share its batch; all else is as in the other rows, where "
        "the release draws crops anew for every frame, does not scale MFCCs, swaps colours and "
        "keeps a constant rate",
        options={"stem_relu": False, "batch_summed_attention": True},
        starts_from=ENCODERS,
    ),
    "multiplicative_through_weights": Row(
        "Multiplicative, gradient through the weights",
        "Late",
        "late_fusion.Multiplicative",
        note="as the formula is read without its authors' code",
        options={"gradient_through_weights": True},
        starts_from=ENCODERS,
    ),
    "averaging_joint": Row(
        "Averaging, trained jointly",
        "Late",
        "late_fusion.Averaging",
        note="both encoders go on training, by the loss of their average",
        additive=True,
        starts_from=ENCODERS,
    ),
    "multiplication_joint": Row(
        "Multiplication, trained jointly",
        "Late",
        "late_fusion.Multiplication",
        note="both encoders go on training, by the loss of their product",
        additive=True,
        starts_from=ENCODERS,
    ),
}


def _switched(name: str, label: str, encoder: str | None = None, **changes: Any) -> dict[str, Row]:
    """CFN-SR with one difference between paper and release switched over.

    Args:
        encoder: the encoder that the difference concerns, which is trained anew with it.
        changes: of `Row`.
    """
    fused = Row(label, "Model", CFN_SR.model, starts_from=ENCODERS, group="switches", **changes)
    if encoder is None:
        return {name: fused}
    before = replace(ROWS[encoder], label=f"{label}: {encoder}", group="switches", **changes)
    return {
        f"{name}_{encoder}": before,
        name: replace(fused, starts_from=ENCODERS | {encoder: f"{name}_{encoder}"}),
    }


_SVMS = FEATURES | {"video": "hybrid_video_svm", "audio": "hybrid_audio_svm"}
_ON_FEATURES = (
    "on the fc7 of C3D and AlexNet above, whose parameters and operations are not counted again"
)


def _hybrid(
    label: str,
    fusion_stage: FusionStage,
    model: str,
    note: str = _ON_FEATURES,
    starts_from: Mapping[str, str] = FEATURES,
    **others: Any,
) -> Row:
    """A row of the hybrid deep model; on features, unless it says otherwise."""
    return Row(
        label,
        fusion_stage,
        model,
        note=note,
        **{"inputs": tuple(FEATURES), "schedule": "none", "starts_from": starts_from} | others,
        group="hybrid",
        preprocess={"frame_choice": "segments"},
    )


def _decisions(label: str, rule: str, additive: bool = False) -> Row:
    note = "of the two SVMs' scores; trains nothing"
    return _hybrid(label, "Late", f"hybrid.{rule}", note, _SVMS, combines=True, additive=additive)


# Zhang et al. 2017, see `cfnsr.models.hybrid`; its printed results are not verified.
HYBRID: dict[str, Row] = {
    "hybrid_video": _hybrid(
        "C3D (Vid.), vote of segments",
        "-",
        "segment_networks.SeenSegments",
        "",
        {},
        inputs=("frames",),
        schedule="hybrid_video",
    ),
    "hybrid_audio": _hybrid(
        "AlexNet (Aud.), vote of segments",
        "-",
        "segment_networks.HeardSegments",
        "",
        {},
        inputs=("segment_mel",),
        schedule="hybrid_audio",
    ),
    "hybrid_video_svm": _hybrid(
        "C3D (Vid.), mean fc7 and SVM",
        "-",
        "hybrid.MeanSVM",
        starts_from={"video_fc7": "hybrid_video"},
        inputs=("video_fc7",),
    ),
    "hybrid_audio_svm": _hybrid(
        "AlexNet (Aud.), mean fc7 and SVM",
        "-",
        "hybrid.MeanSVM",
        starts_from={"audio_fc7": "hybrid_audio"},
        inputs=("audio_fc7",),
    ),
    "hybrid_features": _hybrid(
        "Feature level",
        "Early",
        "hybrid.MeanSVM",
        options={"n_networks": 2},
        additive=True,
    ),
    "hybrid_maximum": _decisions("Decision level, maximum", "Maximum"),
    "hybrid_minimum": _decisions("Decision level, minimum", "Minimum"),
    "hybrid_sum": _decisions("Decision level, sum", "Sum", additive=True),
    "hybrid_product": _decisions("Decision level, product", "Product", additive=True),
    "hybrid_scores": _hybrid("Score level", "Late", "hybrid.ScoreLevel", additive=True),
    "hybrid_dbn": _hybrid(
        "Model level, DBN fine-tuned on labels",
        "Model",
        "hybrid.ModelLevel",
        options={"fine_tuning": "labels"},
    ),
    "hybrid_autoencoder": _hybrid(
        "Model level, DBN fine-tuned as an autoencoder",
        "Model",
        "hybrid.ModelLevel",
        f"{_ON_FEATURES}; as in its first author's code, where the paper is said to use labels",
        options={"fine_tuning": "reconstruction"},
    ),
}
ROWS: dict[str, Row] = TABLE_1 | TABLE_2 | EXTRA | HYBRID
#: The differences between paper and release that can be measured, and what another seed changes.
SWITCHES: dict[str, Row] = (
    _switched("another_seed", "nothing but the seed", "video", seed_step=ANOTHER_SEED)
    | _switched(
        "batch_summed_attention",
        "attention maps summed over the batch (release)",
        options={"batch_summed_attention": True},
    )
    | _switched(
        "softmax_over_clip",
        "softmax over the clip, not the slice (paper)",
        options={"softmax_over": "clip"},
    )
    | _switched(
        "no_stem_relu",
        "no ReLU after the video stem of the fusion network (release)",
        options={"stem_relu": False},
    )
    | _switched(
        "consecutive_frames",
        "consecutive frames (paper)",
        "video",
        preprocess={"frame_choice": "consecutive"},
    )
    | _switched(
        "squashed_first",
        "frames squashed before the crop (release)",
        "video",
        preprocess={"crop": "squashed_first"},
    )
    | _switched(
        "augment_per_frame",
        "crop and flip drawn for each frame (release)",
        "video",
        training={"augment_per_frame": True},
    )
    | _switched(
        "unscaled_mfcc",
        "MFCCs not standardised (release)",
        "audio",
        training={"standardise_mfcc": False},
    )
)
ROWS |= SWITCHES


def find(name: str) -> Row:
    """The row of that name.

    Raises:
        InputError: there is none; the message lists all.
    """
    if name not in ROWS:
        asked = ", ".join(row for row in ROWS if row not in SWITCHES)
        raise InputError(f"row: expected all, hybrid, switches or one of {asked}; found {name}")
    return ROWS[name]


def asked_for(row: str, seeds: Sequence[int]) -> list[str]:
    """The rows that are trained where params.yaml asks for `row`, each after what it starts from.

    `all` are the systems (one of several networks only where there are as many
    seeds), `hybrid` and `switches` those groups, each with CFN-SR, which it is compared with.

    Raises:
        InputError: there is no such row, or it has more members than there are seeds.
    """
    if row == "all":
        names = [
            name
            for name, each in ROWS.items()
            if each.group == "systems" and each.alias is None and each.n_members <= len(seeds)
        ]
    elif row in ("hybrid", "switches"):
        names = [REFERENCE, *(name for name, each in ROWS.items() if each.group == row)]
    else:
        names = [find(row).alias or row]
        n_members = find(names[0]).n_members
        if n_members > len(seeds):
            raise InputError(
                f"row {row} takes {n_members} seeds, but seeds is {list(seeds)}; add others"
            )
    return list(dict.fromkeys(each for name in names for each in _up_to(name)))


def reported(row: str, seeds: Sequence[int]) -> list[str]:
    """The rows of Tables 1 and 2 and their figures where params.yaml asks for `row`.

    Those that are trained; but with `hybrid` and `switches`, which have notebooks of their own, all
    others.
    """
    has_its_own = row in ("hybrid", "switches") or row in HYBRID
    return asked_for("all" if has_its_own else row, seeds)


def _up_to(name: str) -> list[str]:
    before = [each for predecessor in find(name).predecessors for each in _up_to(predecessor)]
    return [*before, name]
