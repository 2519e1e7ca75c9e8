"""What the runs said of every clip, small enough for git: all tables follow from it, without runs.

    python -m cfnsr predictions

reads the runs that params.yaml asks for, and writes figures/<data>/predictions/<protocol>/:

    clips.csv.gz  one line a clip and run: the predicted emotion after each epoch, one digit an
                  epoch (the index, from 0), and its softmax probability in the epochs that any
                  rule of `selection` reports, since calibration is asked of no other; of rows
                  whose decisions others combine, the logits of the last epoch too, as float16
                  in hexadecimal digits
    runs.csv      one line a run: what it was and what it cost
    epochs.csv    one line a run and epoch: loss and accuracies, of the validation actors too,
                  who only choose the epoch

One folder a protocol, so that running one never touches what git keeps of the other, and the
tables show both side by side (`read_comparable`).
"""

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from cfnsr import InputError
from cfnsr.data.corpora import Protocol
from cfnsr.data.files import writing
from cfnsr.evaluation.selection import RULES, with_epochs
from cfnsr.evaluation.tables import by_row
from cfnsr.models.registry import ROWS, find, reported
from cfnsr.params import Params
from cfnsr.training.runs import CLIP_COLUMNS, Accuracies, Decisions, Predictions, Run, read_runs

#: What identifies a run within its protocol.
KEYS = ("row", "fold", "seed")
#: Taken over from run.json.
INFO = (
    "data",
    "protocol",
    "n_parameters",
    "forward_gflops",
    "device",
    "n_threads",
    "data_sha256",
    "pretrained_sha256",
)
#: Rows whose decisions other rows combine, see `cfnsr.models.registry`.
_COMBINED = {name for row in ROWS.values() if row.combines for name in row.predecessors}
_ZERO = ord("0")


def write(runs: Sequence[Run], folder: Path) -> None:
    """Write the runs of one protocol; equal runs give equal bytes."""
    kept = _reported_epochs(runs)
    folder.mkdir(parents=True, exist_ok=True)
    lines_of_runs = pd.DataFrame([_run_line(run, kept[_key(run)]) for run in runs])
    lines_of_runs.to_csv(folder / "runs.csv", index=False, lineterminator="\n")
    curves = pd.concat(map(epochs, runs), ignore_index=True)
    curves.to_csv(folder / "epochs.csv", index=False, lineterminator="\n")
    lines = pd.concat([_clip_lines(run, kept[_key(run)]) for run in runs], ignore_index=True)
    # All that is said of a clip stands together: so it compresses best.
    lines = lines.sort_values(["fold", "clip"], kind="stable")
    text = lines.to_csv(index=False, lineterminator="\n")
    with (
        (folder / "clips.csv.gz").open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed,  # no name and no time
    ):
        packed.write(text.encode())


def read(folder: Path) -> list[Run]:
    """The runs that `write` wrote, with `Decisions` in place of logits.

    Raises:
        InputError: the folder is damaged.
    """
    try:
        packed = gzip.decompress((folder / "clips.csv.gz").read_bytes())
        columns = ("clip", "predicted", "confidence", "logits", "kept_epochs", "settings")
        text = dict.fromkeys(columns, str)
        lines = pd.read_csv(io.BytesIO(packed), dtype=text, keep_default_na=False)
        clips = dict(iter(lines.groupby(list(KEYS), sort=False)))
        curves = dict(iter(pd.read_csv(folder / "epochs.csv").groupby(list(KEYS), sort=False)))
        table = pd.read_csv(folder / "runs.csv", dtype=text)
        if table.empty:
            raise ValueError("runs.csv lists none")
        found = []
        for line in table.to_dict("records"):
            info = {str(name): value for name, value in line.items()}
            key = tuple(info[name] for name in KEYS)
            validation = curves[key]["validation_accuracy_pct"].to_numpy(float)
            found.append(
                Run(
                    row=info["row"],
                    fold=info["fold"],
                    seed=info["seed"],
                    info=info,
                    epochs=curves[key][["epoch", "train_loss", "train_accuracy_pct"]],
                    test=_decisions(clips[key], [int(e) for e in info["kept_epochs"].split()]),
                    validation=None if np.isnan(validation).any() else Accuracies(validation),
                )
            )
    except (OSError, EOFError, ValueError, KeyError, zlib.error) as error:
        raise InputError(
            f"{folder} is damaged ({error}); take it from git, or run `dvc repro` again"
        ) from None
    return found


def read_comparable(folder: Path, protocol: Protocol) -> tuple[list[Run], list[Run]]:
    """The runs of a protocol, and those of the other protocols that may stand beside them.

    Of another protocol, that are the runs of the same rows which saw the same data and were
    trained with the same settings, as was all that they start from; others would differ by more
    than the protocol.

    Args:
        folder: figures/<data>/predictions.
        protocol: the protocol that must be there.

    Returns:
        Both lists; the first is never empty.

    Raises:
        InputError: there is nothing of `protocol`.
    """
    if not (folder / protocol / "runs.csv").exists():
        raise InputError(f"no {folder / protocol}; make it with `dvc repro`")
    own = read(folder / protocol)
    ours = _determinants(own)
    comparable = []
    for other in get_args(Protocol):
        if other != protocol and (folder / other / "runs.csv").exists():
            runs = read(folder / other)
            theirs = _determinants(runs)
            equal = {row for row in ours if theirs.get(row) == ours[row]}
            comparable += [
                run
                for run in runs
                if run.row in equal and equal.issuperset(find(run.row).predecessors)
            ]
    return own, comparable


def epochs(run: Run) -> pd.DataFrame:
    """Loss and accuracies after each epoch, as text with the digits that mean something.

    Columns: row, fold, seed, epoch, train_loss, train_accuracy_pct, test_accuracy_pct and, empty
    without validation actors, validation_accuracy_pct.
    """
    accuracies = {"test": run.test, "validation": run.validation}
    return pd.DataFrame(
        {
            **dict(zip(KEYS, _key(run), strict=True)),
            "epoch": run.epochs["epoch"].to_numpy(),
            "train_loss": _digits(run, "train_loss", "{:.4g}"),
            "train_accuracy_pct": _digits(run, "train_accuracy_pct", "{:.2f}"),
            **{
                f"{name}_accuracy_pct": ""
                if said is None
                else [f"{value:.2f}" for value in said.accuracy_pct]
                for name, said in accuracies.items()
            },
        }
    )


def _digits(run: Run, column: str, digits: str) -> np.ndarray:
    """As text; empty where a row trains nothing."""
    return run.epochs[column].map(digits.format, na_action="ignore").to_numpy()


def keep(params: Params, repository: Path) -> list[Run]:
    """Write what the runs that `params` asks for said, and return them.

    Raises:
        InputError: there are none, one is damaged, or the disk is full or read-only.
    """
    source = repository / "runs" / params.data / params.protocol
    runs = read_runs(source, reported(params.row, params.seeds), params.folds)
    if not runs:
        raise InputError(f"no runs in {source}; train them with `dvc repro`")
    folder = repository / "figures" / params.data / "predictions" / params.protocol
    with writing(folder):
        write(runs, folder)
    return runs


def _key(run: Run) -> tuple[str, int, int]:
    return run.row, run.fold, run.seed


def _determinants(runs: Sequence[Run]) -> dict[str, set[tuple[str, str]]]:
    return {
        row: {(run.info["data_sha256"], run.info["settings"]) for run in of_row}
        for row, of_row in by_row(runs).items()
    }


def _reported_epochs(runs: Sequence[Run]) -> dict[tuple[str, int, int], list[int]]:
    found: dict[tuple[str, int, int], set[int]] = {_key(run): set() for run in runs}
    for of_row in by_row(runs).values():
        for rule in RULES:
            for run, epoch in with_epochs(of_row, rule):
                found[_key(run)].add(epoch)
    return {key: sorted(epochs) for key, epochs in found.items()}


def _run_line(run: Run, kept: list[int]) -> dict[str, Any]:
    return {
        **dict(zip(KEYS, _key(run), strict=True)),
        "n_epochs": run.n_epochs,
        "kept_epochs": " ".join(map(str, kept)),
        **{name: run.info[name] for name in INFO},
        "torch": run.info["versions"]["torch"],
        "same_bits": run.info["training"].get("same_bits", False),
        **({"corpus": run.info["corpus"]} if "corpus" in run.info else {}),
        "settings": _settings(run.info),
    }


def _settings(info: dict[str, Any]) -> str:
    """A short name for what a run was asked to do, whatever the protocol and the machine."""
    machine = ("n_threads", "precision", "same_bits")
    asked = {
        "model": info["model"],
        "schedule": info["schedule"],
        # It changes no array; a constant, because git keeps names that were made with it.
        "preprocess": info["preprocess"] | {"rejected": "stop"},
        "training": {name: v for name, v in info["training"].items() if name not in machine},
    }
    if info["pretrained_sha256"] is not None:
        asked["pretrained"] = info["pretrained_sha256"]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]


def _clip_lines(run: Run, kept: list[int]) -> pd.DataFrame:
    digits = run.test.predicted.T.astype(np.uint8) + _ZERO  # clip epoch
    confidence = run.test.confidence[np.array(kept) - 1].T  # clip kept
    return run.test.clips[list(CLIP_COLUMNS)].assign(
        row=run.row,
        fold=run.fold,
        seed=run.seed,
        predicted=[line.tobytes().decode() for line in digits],
        confidence=[" ".join(map("{:.3f}".format, line)) for line in confidence],
        logits=_last_logits(run) if run.row in _COMBINED else "",
    )


def _last_logits(run: Run) -> list[str] | str:
    """Of each clip, in hexadecimal digits; empty where an older file did not keep them."""
    said = run.test
    logits = said.logits[-1] if isinstance(said, Predictions) else said.last_logits
    return "" if logits is None else [line.astype("<f2").tobytes().hex() for line in logits]


def _decisions(lines: pd.DataFrame, kept: list[int]) -> Decisions:
    digits = np.frombuffer("".join(lines["predicted"]).encode(), np.uint8)
    predicted = digits.reshape(len(lines), -1).T.astype(int) - _ZERO  # epoch clip
    confidence = np.full(predicted.shape, np.nan)
    values = [line.split() for line in lines["confidence"]]
    confidence[np.array(kept) - 1] = np.array(values, dtype=float).T
    logits = None
    if "logits" in lines and lines["logits"].all():
        halves = np.frombuffer(bytes.fromhex("".join(lines["logits"])), "<f2")
        logits = halves.astype(np.float32).reshape(len(lines), -1)
    clips = lines[list(CLIP_COLUMNS)].reset_index(drop=True)
    return Decisions(predicted, confidence, clips, logits)
