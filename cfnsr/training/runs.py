"""What one training leaves behind, and where: the contract between training and evaluation.

runs/<data>/<protocol>/<group>/fold_<k>/<row>/seed_<s>/
    run.json               what determines the result: parameters, actors, versions, device; and
                           the sha256 of the weights
    epochs.csv             training loss and accuracy of each epoch
    test_logits.npy        float16 (epoch, clip, emotion), every epoch, so that each rule for
                           choosing the epoch can be computed afterwards
    test_clips.csv         clip, actor, emotion index of each row of the logits
    validation_*           the same for the actors that choose the epoch (protocol nested)
    weights.pt             the state dict after the last epoch
    fc7.npy                of the networks of group hybrid: float32 (clip, unit, segment) of all
                           clips, which other rows of the group start from
    timing.json            seconds, date, host, git commit: not a result, so no stage hashes it
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel
from scipy import special

from cfnsr import InputError
from cfnsr.data import corpora
from cfnsr.models.registry import find

CLIP_COLUMNS = ("clip", "actor", "emotion")


class _Classified:
    """Clips, and the emotion that each is taken for after each epoch, (epoch, clip)."""

    predicted: np.ndarray
    clips: pd.DataFrame  # clip, actor, emotion (index, from 0)

    @property
    def correct(self) -> np.ndarray:
        """Whether each clip is classified rightly after each epoch, bool (epoch, clip)."""
        return self.predicted == self.clips["emotion"].to_numpy()[None, :]

    @property
    def accuracy_pct(self) -> np.ndarray:
        """Percentage of clips classified rightly after each epoch, (epoch,)."""
        return 100 * self.correct.mean(axis=1)


@dataclass(frozen=True, eq=False)
class Predictions(_Classified):
    """Logits (epoch, clip, emotion) of a set of clips, with each clip's actor and true emotion."""

    logits: np.ndarray
    clips: pd.DataFrame

    @property
    def predicted(self) -> np.ndarray:  # type: ignore[override]  # of a frozen class: read-only
        """The most likely emotion, (epoch, clip)."""
        return self.logits.argmax(axis=-1)

    @property
    def confidence(self) -> np.ndarray:
        """The largest softmax probability, (epoch, clip)."""
        return special.softmax(self.logits.astype(float), axis=-1).max(axis=-1)


@dataclass(frozen=True, eq=False)
class Decisions(_Classified):
    """What `cfnsr.evaluation.predictions` keeps of test `Predictions`; all scores follow from it.

    `predicted` and `confidence` (epoch, clip) as there; the confidence is nan in epochs that no
    rule reports. `last_logits` (clip, emotion) of rows whose decisions others combine.
    """

    predicted: np.ndarray
    confidence: np.ndarray
    clips: pd.DataFrame
    last_logits: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Accuracies:
    """What `cfnsr.evaluation.predictions` keeps of clips that only choose an epoch, (epoch,)."""

    accuracy_pct: np.ndarray


@dataclass(frozen=True, eq=False)
class Run:
    """One trained model: a row, a fold, a seed."""

    row: str
    fold: int
    seed: int
    info: dict[str, Any]  # run.json
    epochs: pd.DataFrame  # epoch (from 1), train_loss, train_accuracy_pct
    test: Predictions | Decisions
    validation: Predictions | Accuracies | None

    @property
    def corpus(self) -> corpora.Corpus:
        return corpora.of(self.info)

    @property
    def n_epochs(self) -> int:
        return len(self.test.predicted)


def write_predictions(folder: Path, name: str, predictions: Predictions) -> None:
    """Save as `<name>_logits.npy` and `<name>_clips.csv`."""
    np.save(folder / f"{name}_logits.npy", predictions.logits.astype(np.float16))
    predictions.clips[list(CLIP_COLUMNS)].to_csv(
        folder / f"{name}_clips.csv", index=False, lineterminator="\n"
    )


def read_predictions(folder: Path, name: str) -> Predictions:
    """Read what `write_predictions` wrote."""
    logits = np.load(folder / f"{name}_logits.npy").astype(np.float32)
    clips = pd.read_csv(folder / f"{name}_clips.csv", dtype={"clip": str})
    return Predictions(logits, clips)


class _Scaling(BaseModel):
    mean: list[float]
    sd: list[float]


class _Info(BaseModel):
    """What is used of run.json, and its types."""

    row: str
    fold: int
    seed: int
    data: str
    protocol: str
    actors: dict[str, list[int]]
    model: dict[str, Any]
    schedule: dict[str, Any] | None
    training: dict[str, Any]
    preprocess: dict[str, Any]
    scaling: dict[str, _Scaling]
    versions: dict[str, str]
    n_parameters: int
    forward_gflops: float
    device: str
    n_threads: int | None
    data_sha256: str
    pretrained_sha256: str | None
    weights_sha256: str


def read_info(folder: Path) -> dict[str, Any]:
    """A run's run.json.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        content = (folder / "run.json").read_bytes()
        _Info.model_validate_json(content, strict=True)
    except (FileNotFoundError, NotADirectoryError):
        raise _no_run(folder, "run.json") from None
    except (ValueError, OSError):
        raise InputError(f"{folder} is damaged; remove it and train again") from None
    info: dict[str, Any] = json.loads(content)
    find(info["row"])
    return info


def weights_path(folder: Path) -> Path:
    """Of a run, or of a network as it is published.

    Raises:
        InputError: there are none.
    """
    for name in ("weights.pt", "weights.safetensors"):
        if (folder / name).is_file():
            return folder / name
    raise _no_run(folder, "weights.pt")


def trained_by(info: Mapping[str, Any]) -> str:
    """The command that trains a run anew, from its run.json."""
    group = find(info["row"]).group
    if group == "systems":
        return f"`dvc repro train@{info['fold']}`"
    return f"`dvc exp run -S row={group}`"


def read_run(folder: Path) -> Run:
    """Read one seed's folder.

    Raises:
        InputError: the folder is not a complete run.
    """
    info = read_info(folder)
    try:
        has_validation = (folder / "validation_logits.npy").exists()
        return Run(
            row=info["row"],
            fold=info["fold"],
            seed=info["seed"],
            info=info,
            epochs=pd.read_csv(folder / "epochs.csv"),
            test=read_predictions(folder, "test"),
            validation=read_predictions(folder, "validation") if has_validation else None,
        )
    except FileNotFoundError as error:
        raise _no_run(folder, Path(error.filename).name) from None
    except (ValueError, EOFError):
        raise InputError(f"{folder} is damaged; remove it and train again") from None


def _no_run(folder: Path, missing: str) -> InputError:
    seeds = sorted(folder.glob("seed_*"))
    hint = f"; did you mean {seeds[0]}?" if seeds else ", as `dvc repro` leaves it"
    return InputError(
        f"{folder} holds no {missing}; expected a trained run, "
        f"runs/<data>/<protocol>/<group>/fold_<k>/<row>/seed_<s>{hint}"
    )


def run_folder(runs: Path, row: str, fold: int, seed: int) -> Path:
    """Where below `runs/<data>/<protocol>` a run is."""
    return runs / find(row).group / f"fold_{fold}" / row / f"seed_{seed}"


def run_folders(runs: Path, row: str, fold: int) -> list[Path]:
    """A row's runs of a fold that are there, in the order of their seeds."""
    folders = run_folder(runs, row, fold, 0).parent.glob("seed_*")
    seeds = {path.name.removeprefix("seed_"): path for path in folders}
    return [seeds[seed] for seed in sorted(filter(str.isdecimal, seeds), key=int)]


def read_runs(folder: Path, rows: Iterable[str], folds: Iterable[int]) -> list[Run]:
    """All runs below `runs/<data>/<protocol>` of these rows and folds, in row, fold, seed order."""
    folds = tuple(folds)
    return [
        read_run(path) for row in rows for fold in folds for path in run_folders(folder, row, fold)
    ]
