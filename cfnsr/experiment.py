"""One training as it is asked for: everything that determines its result, except the machine."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cfnsr import provenance
from cfnsr.dataset import Clips
from cfnsr.errors import InputError
from cfnsr.models.registry import Row, find
from cfnsr.params import Params, Precision, Schedule
from cfnsr.ravdess import Split, split_actors


@dataclass(frozen=True, eq=False)
class Experiment:
    """A row on a fold with a seed.

    `trained` are the weights to start from, by the module that they belong to (`video`, `audio`,
    `members.0`); `options` are switches of the model beside those of its row.
    """

    row: str
    fold: int
    seed: int
    params: Params
    clips: Clips
    trained: Mapping[str, Path] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def system(self) -> Row:
        row = find(self.row)
        return replace(row, options={**row.options, **self.options})

    @property
    def schedule(self) -> Schedule | None:
        """None for a row that is fitted without epochs."""
        return getattr(self.params.source.training, self.system.schedule, None)

    @property
    def precision(self) -> Precision:
        """What `auto` stands for: bfloat16 where the device computes with it.

        The small networks of sound alone gain nothing from it.
        """
        chosen = self.params.source.training.precision
        if chosen != "auto":
            return chosen
        if torch.cuda.is_available():
            has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            has_bf16 = torch.cpu.get_capabilities().get("avx512_bf16", False)
        return "bf16-mixed" if has_bf16 and self.system.uses_video else "32-true"

    @property
    def starts_from(self) -> Mapping[str, Path]:
        """The weights that are not drawn at random, by the module that they belong to."""
        pretrained = self.params.pretrained
        if self.system.schedule == "video" and pretrained is not None:
            return {"video": pretrained}
        return self.trained

    @property
    def split(self) -> Split:
        return split_actors(self.fold, self.params.protocol)

    def describe(self) -> dict[str, Any]:
        """The part of run.json that is known before the training."""
        source = self.params.source
        row = self.system
        training = source.training
        return {
            "row": self.row,
            "fold": self.fold,
            "seed": self.seed,
            "data": self.params.data,
            "protocol": self.params.protocol,
            "actors": {name: list(actors) for name, actors in vars(self.split).items()},
            "model": {"class": row.model, **row.options, **source.model.model_dump(mode="json")},
            "schedule": self.schedule.model_dump() if self.schedule else None,
            "training": training.common | {"precision": self.precision},
            "preprocess": source.preprocess.model_dump(),
            "drawing": source.drawing.model_dump(),
            "data_sha256": self.clips.sha256,
            "starts_from_sha256": {
                name: provenance.sha256_of_file(path) for name, path in self.starts_from.items()
            },
            "versions": provenance.versions(),
        }


def experiments(row: str, fold: int, params: Params, clips: Clips, runs: Path) -> list[Experiment]:
    """A row on a fold, once a seed; a row of several networks once, from the first seeds.

    Args:
        runs: `runs/<data>/<protocol>`, where that is found which the row starts from.

    Raises:
        InputError: unknown row, or what it starts from is not trained yet.
    """
    system = find(row)
    if system.members is None:
        return [
            Experiment(row, fold, seed, params, clips, encoders_of(row, fold, seed, runs))
            for seed in params.seeds
        ]
    weights = {
        f"members.{i}": _weights(system.members, fold, seed, runs, row)
        for i, seed in enumerate(params.seeds[: system.n_members])
    }
    return [Experiment(row, fold, params.seeds[0], params, clips, weights)]


def encoders_of(row: str, fold: int, seed: int, runs: Path) -> dict[str, Path]:
    """The encoders that a row starts from, in `runs/<data>/<protocol>`; none where it needs none.

    Raises:
        InputError: they are not trained yet.
    """
    return {name: _weights(name, fold, seed, runs, row) for name in find(row).starts_from}


def _weights(name: str, fold: int, seed: int, runs: Path, for_row: str) -> Path:
    path = runs / name / f"fold_{fold}" / f"seed_{seed}" / "weights.pt"
    if not path.exists():
        raise InputError(
            f"{for_row} starts from {name} of fold {fold}, but there is no {path}; run "
            f"`dvc repro encoders@{name}-{fold}` first"
        )
    return path


def start_from(encoder: nn.Module, name: str, path: Path) -> None:
    """Load an encoder's weights, of a run or of a checkpoint with the public 3D-ResNets' names.

    A head that `encoder` lacks, or that is of other classes, is left behind.

    Args:
        name: the attribute that holds the encoder in the model of the run.

    Raises:
        InputError: no weights, or of another network.
    """
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        given = {
            key.removeprefix("module.").removeprefix(f"{name}."): tensor
            for key, tensor in content.get("state_dict", content).items()
        }
    except (ValueError, EOFError, RuntimeError, AttributeError, pickle.UnpicklingError):
        raise InputError(f"{path} holds no weights; expected what torch.save wrote") from None
    weights = encoder.state_dict()
    for key, own in weights.items():
        if key in given and given[key].shape == own.shape:
            weights[key] = given[key]
        # Checkpoints of torch 0.3 do not count batches.
        elif not key.startswith("fc.") and not key.endswith(".num_batches_tracked"):
            found = f"one of {tuple(given[key].shape)}" if key in given else "none"
            raise InputError(
                f"{path} does not fit the {name} encoder: expected a {key} of "
                f"{tuple(own.shape)}, found {found}; compare model: in params.yaml with the "
                "network that was saved"
            )
    encoder.load_state_dict(weights)
