"""params.yaml as frozen, validated objects."""

import math
import re
import reprlib
from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from cfnsr import InputError
from cfnsr.data import corpora
from cfnsr.data.corpora import Corpus, Protocol

Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=1)]  # 0 stands for a run of several, see `cfnsr.models.registry`
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
#: How many values params.yaml may stand for, and of how many characters.
MAX_VALUES, LONGEST = 10_000, 1000
_LANDMARKS = "_landmarks"
_KIND = re.compile(r"int|literal\[.*\]")


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise PydanticCustomError("path", "expected a folder, but there is no such user") from None


UserPath = Annotated[Path, AfterValidator(_expanded)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _known(name: str, others: Iterable[str] = ()) -> str:
    known = (*others, *corpora.CORPORA)
    if name not in known:
        raise PydanticCustomError("name", "expected one of {names}", {"names": ", ".join(known)})
    return name


def _section_of(name: str) -> str:
    if name not in corpora.CORPORA:
        raise PydanticCustomError("extra_forbidden", "no corpus")
    return name


#: Data sources whose clips are made.
DRAWN = ("synthetic", "pointing", "mixture")
#: What `data` may name: one of these, or a corpus.
_SOURCES = (*DRAWN, "ravdess_landmarks")
Source = Annotated[str, AfterValidator(lambda name: _known(name, _SOURCES))]


class DrawnClips(_Section):
    """Which clips are drawn: of a corpus's takes those of so many statements and repetitions."""

    corpus: Annotated[str, AfterValidator(_known)] = corpora.DEFAULT
    seed: int = 7
    n_repetitions: Annotated[int, Field(ge=1, le=2)] = 1
    n_statements: Annotated[int, Field(ge=1, le=2)] = 1


class Clips(DrawnClips):
    """Face and voice are independent evidence; see `cfnsr.data.synthetic.design`."""

    face_reliability: Probability = 0.7
    voice_reliability: Probability = 0.65


class PointingClips(DrawnClips):
    """The voice says which part of the face to believe; see `cfnsr.data.synthetic.design`.

    `part_reliability`: how often that part shows the clip's emotion; `pointer_reliability`: how
    often the voice names the right part. With a `voice_reliability` the voice also shows an
    emotion, the clip's that often and else any other.
    """

    n_repetitions: Annotated[int, Field(ge=1, le=2)] = 2
    n_statements: Annotated[int, Field(ge=1, le=2)] = 2
    part_reliability: Probability = 0.98
    pointer_reliability: Probability = 0.98
    voice_reliability: Probability | None = None


class Drawing(_Section):
    """How the 68 points become a picture: boxed by the clip or by each frame."""

    box: Literal["clip", "frame"] = "clip"
    line_width_px: Annotated[int, Field(ge=1, le=5)] = 1


class Preprocess(_Section):
    """Clips to arrays (section 3.2). The defaults are the paper's.

    `frame_choice`: the paper says 30 consecutive images, its code takes them evenly spaced;
    `segments` are for the rows of group hybrid, which ask for them by themselves.
    `crop`: cut the face out of the full frame, or, as the release does, of a frame that was
    squashed to `frame_size` first. `rejected`: stop when a clip cannot be used, or go on without.
    """

    n_frames: Count = 30
    frame_size: Annotated[int, Field(ge=16)] = 224
    frame_choice: Literal["evenly_spaced", "consecutive", "segments"] = "evenly_spaced"
    crop: Literal["full_resolution", "squashed_first"] = "full_resolution"
    sample_rate_hz: Annotated[int, Field(ge=1000, le=1_000_000)] = 44_100
    offset_s: Annotated[float, Field(ge=0, le=3600)] = 0.5
    duration_s: Annotated[float, Field(gt=0, le=3600)] = 2.45
    n_mfcc: Annotated[int, Field(ge=1, le=128)] = 13  # there are 128 mel bands
    drawing: Drawing = Drawing()  # of faces of which there are only landmarks
    rejected: Literal["stop", "skip"] = "stop"


class Model(_Section):
    """Sizes shared by every row. The defaults are the paper's 26.30 M parameters."""

    model_config = ConfigDict(validate_default=True)

    stem_channels: Count = 64
    cardinality: Count = 32
    n_blocks: tuple[Count, Count, Count, Count] = (3, 4, 6, 3)
    audio_channels: Annotated[int, Field(ge=2, multiple_of=2)] = 64
    n_encoder_layers: Count = 5
    n_heads: Count = 8

    @field_validator("cardinality", "n_heads")
    @classmethod
    def _divides(cls, parts: int, info: ValidationInfo) -> int:
        """The first stage's 2 x `stem_channels`, in groups, or `audio_channels`, over heads."""
        stem, audio = (info.data.get(name, 0) for name in ("stem_channels", "audio_channels"))
        n_channels = 2 * stem if info.field_name == "cardinality" else audio
        if n_channels % parts:
            context = {"n": n_channels}
            raise PydanticCustomError("parts", "expected a divisor of {n} channels", context)
        return parts


class Hybrid(_Section):
    """The hybrid deep model of Zhang et al. (2017). The defaults are their sizes, where known.

    A segment's spectrogram becomes a picture of `picture_size` pixels, and beside it `n_frames` of
    `frame_size` pixels are seen; `width` scales channels and units of AlexNet and C3D, and
    `dropout` is the share of units that these leave out in training. `n_hidden` are the units of
    the stacked RBMs, which learn for `n_rbm_epochs` each at `rbm_learning_rate`, by `n_gibbs_steps`
    steps from the data, or from where the last ones ended (`persistent`), and are then fine-tuned.
    `alexnet` and `c3d` are checkpoints that the networks start from (null: random weights), see
    `cfnsr.models.segment_networks`.
    """

    n_frames: Count = 16
    frame_size: Annotated[int, Field(ge=16)] = 112
    picture_size: Annotated[int, Field(ge=63)] = 227  # AlexNet's smallest is 63
    width: Annotated[float, Field(gt=0, le=1)] = 1.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    n_hidden: Annotated[tuple[Count, ...], Field(min_length=1)] = (4096, 1024)
    n_rbm_epochs: Count = 100
    rbm_learning_rate: Annotated[float, Field(gt=0)] = 0.001
    n_gibbs_steps: Count = 1
    persistent: bool = False
    n_fine_tuning_epochs: Count = 100
    alexnet: Path | None = None
    c3d: Path | None = None


class Schedule(_Section):
    """One training (section 3.2: Adam, learning rate 0.001; the release: batch 16, 70 epochs).

    Every row of a data source anneals its rate, so that all are compared after their last epoch.
    """

    n_epochs: Count = 70
    batch_size: Annotated[int, Field(ge=2)] = 16
    learning_rate: Annotated[float, Field(gt=0)] = 0.001
    anneal: bool = True  # the rate falls to zero along half a cosine; the paper's is constant


class Training(_Section):
    """Schedules of the two encoders, ERANN, rows that start from the encoders, ours, the hybrid.

    `same_bits`: results do not depend on the make of an x86-64 processor, see
    `cfnsr.cluster.SAME_BITS`; `precision` auto is then float32.
    `standardise_mfcc` and `augment_per_frame` are where this project departs from the release
    (false and true there). `precision` auto is bfloat16 where the device computes with it, and
    the network sees a video. `pretrained` is a checkpoint with the names of the public 3D-ResNets,
    or a `weights.pt` of another run, that the video encoder starts from (null: random weights).
    """

    video: Schedule = Schedule()
    audio: Schedule = Schedule()
    erann: Schedule = Schedule()
    fusion: Schedule = Schedule()
    ours: Schedule = Schedule(n_epochs=40, batch_size=32)
    hybrid_video: Schedule = Schedule(n_epochs=40, batch_size=30, learning_rate=0.0001)
    hybrid_audio: Schedule = Schedule(n_epochs=40, batch_size=30, learning_rate=0.0001)
    standardise_mfcc: bool = True
    augment_per_frame: bool = False
    precision: Precision | Literal["auto"] = "auto"
    same_bits: bool = False
    pretrained: UserPath | None = None

    @property
    def common(self) -> dict[str, Any]:
        """What every training follows, whatever its schedule and what it starts from."""
        own = {name for name, value in self if isinstance(value, Schedule)}
        return self.model_dump(exclude={*own, "pretrained"})


class SourceParams(_Section):
    """Everything that depends on the data source."""

    root: UserPath | None = None
    preprocess: Preprocess = Preprocess()
    model: Model = Model()
    training: Training = Training()
    hybrid: Hybrid = Hybrid()


class SyntheticParams(SourceParams):
    """The same where clips are made and face and voice are independent."""

    clips: Clips = Clips()


class PointingParams(SourceParams):
    """The same where clips are made and the voice points."""

    clips: PointingClips = PointingClips()


class Params(_Section):
    """All of params.yaml. Each corpus may have a section, which is the paper's setting without."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[Annotated[str, AfterValidator(_section_of)], SourceParams]

    data: Source = "synthetic"
    protocol: Protocol = "paper"
    fold: Literal["all"] | int = "all"
    fold_stages: tuple[Count, ...] = (1, 2, 3, 4, 5, 6)
    row: str = "all"
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (1234,)
    synthetic: SyntheticParams = SyntheticParams()
    pointing: PointingParams = PointingParams()
    mixture: PointingParams = PointingParams()
    ravdess_landmarks: SourceParams = SourceParams()

    @field_validator("seeds")
    @classmethod
    def _differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise PydanticCustomError("seeds", "expected different seeds")
        return seeds

    @property
    def source(self) -> SourceParams:
        section: SourceParams = getattr(self, self.data, SourceParams())
        return section

    @property
    def drawn(self) -> DrawnClips | None:
        """What is drawn, where the clips of the chosen data source are made."""
        return getattr(self.source, "clips", None)

    @property
    def corpus(self) -> Corpus:
        """The corpus of the chosen data source, or the one that is imitated."""
        return corpora.find(self.corpus_name)

    @property
    def corpus_name(self) -> str:
        """As `corpora.CORPORA` has it."""
        return self.drawn.corpus if self.drawn else self.data.removesuffix(_LANDMARKS)

    @property
    def draws_landmarks(self) -> bool:
        return draws_landmarks(self.data)

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds to run.

        Raises:
            InputError: the protocol does not have the fold that was asked for, or the pipeline
                has no stage for one.
        """
        available = self.corpus.folds(self.protocol)
        if self.fold != "all" and self.fold not in available:
            nested = self.corpus.folds("nested")
            hint = f" (protocol nested has fold {self.fold})" if self.fold in nested else ""
            raise InputError(
                f"fold: expected all or {available[0]} to {available[-1]} under protocol "
                f"{self.protocol}, found {self.fold}{hint}"
            )
        asked = available if self.fold == "all" else (self.fold,)
        if not set(asked) <= set(self.fold_stages):
            every = ",".join(map(str, available))
            raise InputError(
                f"fold_stages: {self.corpus.name} has folds {available[0]} to {available[-1]}, "
                f"and dvc.yaml has no stages for some; add -S 'fold_stages=[{every}]'"
            )
        return asked

    def checkpoint(self, schedule: str) -> Path | None:
        """What the network that follows a schedule starts from; relative to the user's checkout.

        Raises:
            InputError: there is no such file.
        """
        source = self.source
        files = {
            "video": ("training.pretrained", "a video encoder", source.training.pretrained),
            "hybrid_video": ("hybrid.c3d", "a C3D", source.hybrid.c3d),
            "hybrid_audio": ("hybrid.alexnet", "an AlexNet", source.hybrid.alexnet),
        }
        key, network, named = files.get(schedule, ("", "", None))
        if named is None:
            return None
        path = checkout_of(repository_root()) / named
        if not path.is_file():
            raise InputError(
                f"{self.data}.{key}: {path} is no file; expected the checkpoint of {network} (or "
                "null for random weights)"
            )
        return path


def draws_landmarks(data: str) -> bool:
    """Whether a data source has no films, but faces drawn from their landmarks."""
    return data.endswith(_LANDMARKS)


def n_channels(data: str) -> int:
    """Of a data source's pictures: colours, or drawn strokes in grey."""
    return 1 if draws_landmarks(data) else 3


def repository_root() -> Path:
    """The folder that holds params.yaml, looking upwards from the working directory.

    So a notebook opened in JupyterLab finds the project from `notebooks/`.
    """
    start = Path.cwd().resolve()
    for folder in (start, *start.parents):
        if (folder / "params.yaml").is_file():
            return folder
    raise InputError(f"no params.yaml in {start} or above; run this from inside the repository")


def checkout_of(repository: Path) -> Path:
    """The user's own checkout where `repository` is a workspace that DVC has made of it."""
    for folder in repository.parents:
        if folder.parts[-3:] == (".dvc", "tmp", "exps"):
            return folder.parents[2]
    return repository


def load(path: Path | None = None) -> Params:
    """Read and check params.yaml.

    Raises:
        InputError: unreadable file, unknown or missing key, value out of range; one line each.
    """
    path = path or repository_root() / "params.yaml"
    try:
        values = _read(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except RecursionError:
        raise InputError(f"{path.name} is nested too deeply") from None
    # ValueError: a date or a number that Python cannot read.
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path.name} is not valid YAML: {' '.join(str(error).split())}") from None
    try:
        params = Params.model_validate(values or {})
    except ValidationError as error:
        raise InputError(f"{path.name}: {'; '.join(_explain(error.errors()))}") from None
    params.folds  # noqa: B018  a wrong fold is an error here, not in a later stage
    return params


def _read(text: str) -> Any:
    """As `yaml.safe_load`, unless a few lines of aliases stand for millions of values."""
    loader = yaml.SafeLoader(text)
    node = loader.get_single_node()
    if node is None:
        return None
    if _n_values(node, {}) > MAX_VALUES:
        raise ValueError(f"expected at most {MAX_VALUES} values of {LONGEST} characters")
    return loader.construct_document(node)


def _n_values(node: yaml.Node, known: dict[yaml.Node, float]) -> float:
    """How many values a node stands for; infinitely many where it is too long or holds itself."""
    if isinstance(node, yaml.ScalarNode):
        return 1 if len(node.value) <= LONGEST else math.inf
    if node not in known:
        known[node] = math.inf
        pairs = isinstance(node, yaml.MappingNode)
        parts = chain.from_iterable(node.value) if pairs else node.value
        known[node] = 1 + sum(_n_values(part, known) for part in parts)
    return known[node]


def _explain(problems: Iterable[Any]) -> Iterator[str]:
    """What is wrong with each key; one of several types has a problem with each of them."""
    for key, group in groupby(problems, _key):
        problem, *others = group
        if problem["type"] == "extra_forbidden":
            yield f"unknown parameter {key}; check its spelling against the README's list"
            continue
        message = f"{problem['msg'][:1].lower()}{problem['msg'][1:]}"
        if others:
            kinds = (each.get("ctx", {}).get("expected") for each in (problem, *others))
            message = "expected " + " or ".join(kind or "a whole number" for kind in kinds)
            message = message.replace("'", "")
        yield f"{key}: {message}, found {reprlib.repr(problem['input'])}"


def _key(problem: Any) -> str:
    names = [str(part) for part in problem["loc"]]
    # After the key, pydantic names the one of several types that it has tried.
    if problem["type"] != "extra_forbidden" and names[-1:] and _KIND.fullmatch(names[-1]):
        names.pop()
    return ".".join(names) or "the whole file"
