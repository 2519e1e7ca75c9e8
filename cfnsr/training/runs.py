"""What one training leaves behind, and where: the contract between training and evaluation.

runs/<data>/<protocol>/<group>/fold_<k>/<row>/seed_<s>/
    run.json               what determines the result: parameters, actors, versions, device
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
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from cfnsr.errors import InputError
from cfnsr.models.registry import find

_SEED_FOLDER = re.compile(r"seed_(\d+)")
CLIP_COLUMNS = ("clip", "actor", "emotion")


class _Classified:
    """Clips, and the emotion that each is taken for after each epoch, (epoch, clip)."""

    predicted: np.ndarray
    clips: pd.DataFrame  # clip, actor, emotion (index, 0 to 7)

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
        """The largest softmax probability, (epoch, clip); nan where logits are not finite."""
        with np.errstate(invalid="ignore"):
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
    def n_epochs(self) -> int:
        return len(self.test.predicted)


def write_predictions(folder: Path, name: str, predictions: Predictions) -> None:
    """Save as `<name>_logits.npy` and `<name>_clips.csv`."""
    np.save(folder / f"{name}_logits.npy", predictions.logits.astype(np.float16))
    predictions.clips[list(CLIP_COLUMNS)].to_csv(
        folder / f"{name}_clips.csv", index=False, lineterminator="\n"
    )


def read_predictions(folder: Path, name: str) -> Predictions:
    logits = np.load(folder / f"{name}_logits.npy").astype(np.float32)
    clips = pd.read_csv(folder / f"{name}_clips.csv", dtype={"clip": str})
    if logits.ndim != 3 or logits.shape[1] != len(clips):
        raise InputError(
            f"{folder}: {name}_logits.npy has shape {logits.shape}, but {name}_clips.csv lists "
            f"{len(clips)} clips; remove the folder and train again"
        )
    return Predictions(logits, clips)


def read_run(folder: Path) -> Run:
    """Read one seed's folder.

    Raises:
        InputError: the folder is not a complete run.
    """
    try:
        info = json.loads((folder / "run.json").read_text())
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
        missing = Path(error.filename).name
        raise InputError(f"{folder} holds no {missing}; train it again with `dvc repro`") from None
    except InputError:
        raise
    except (ValueError, KeyError, EOFError):
        raise InputError(f"{folder} is damaged; remove it and train again") from None


def run_folder(runs: Path, row: str, fold: int, seed: int) -> Path:
    """Where below `runs/<data>/<protocol>` a run is."""
    return runs / find(row).group / f"fold_{fold}" / row / f"seed_{seed}"


def run_folders(runs: Path, row: str, fold: int) -> list[Path]:
    """A row's runs of a fold that are there, in the order of their seeds."""
    seeds = [
        int(match[1])
        for path in run_folder(runs, row, fold, 0).parent.glob("seed_*")
        if (match := _SEED_FOLDER.fullmatch(path.name))
    ]
    return [run_folder(runs, row, fold, seed) for seed in sorted(seeds)]


def read_runs(folder: Path, rows: Iterable[str], folds: Iterable[int]) -> list[Run]:
    """All runs below `runs/<data>/<protocol>` of these rows and folds, in row, fold, seed order."""
    folds = tuple(folds)
    return [
        read_run(path) for row in rows for fold in folds for path in run_folders(folder, row, fold)
    ]
