"""One training as it is asked for: everything that determines its result, except the machine."""

import errno
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pooch import file_hash
from torch import nn

from cfnsr import InputError
from cfnsr.data import files
from cfnsr.data.clips import Clips
from cfnsr.data.corpora import Split, recorded
from cfnsr.models.registry import FEATURES, Row, find
from cfnsr.params import Params, Precision, Schedule, SourceParams
from cfnsr.training import provenance
from cfnsr.training.runs import read_info, run_folder, trained_by

#: The last layers of 3D ResNets, C3D and AlexNet; a checkpoint may have them of other classes.
_HEADS = ("fc.", "fc8.", "classifier.6.")


@dataclass(frozen=True, eq=False)
class Experiment:
    """A row on a fold with a seed.

    `starts_from` are the weights that are not drawn at random, by the module that they belong to
    (`video`, `audio`, `members.0`), or by the input that their network made (`video_fc7`).
    """

    row: str
    fold: int
    seed: int
    params: Params
    clips: Clips
    starts_from: Mapping[str, Path] = field(default_factory=dict)

    @property
    def system(self) -> Row:
        return find(self.row)

    @property
    def source(self) -> SourceParams:
        """The section of the data source, with what the row changes in it."""
        return changed_by(self.system, self.params.source)

    @property
    def schedule(self) -> Schedule | None:
        """None for a row that is fitted without epochs."""
        return getattr(self.source.training, self.system.schedule, None)

    @property
    def precision(self) -> Precision:
        """What `auto` stands for: bfloat16 where the device computes with it.

        Not where the same bits are wanted on every processor.

        The small networks of sound alone gain nothing from it.
        """
        chosen = self.source.training.precision
        if chosen != "auto":
            return chosen
        if self.source.training.same_bits:
            return "32-true"
        if torch.cuda.is_available():
            has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            has_bf16 = torch.cpu.get_capabilities().get("avx512_bf16", False)
        return "bf16-mixed" if has_bf16 and "frames" in self.system.inputs else "32-true"

    def array(self, name: str) -> np.ndarray:
        """An input of the row, of all clips: a clip's array, or what the row's networks made."""
        if name in FEATURES:
            features: np.ndarray = np.load(self.starts_from[name].with_name("fc7.npy"))
            return features
        array: np.ndarray = getattr(self.clips, name)
        return array

    @property
    def split(self) -> Split:
        return self.params.corpus.split(self.fold, self.params.protocol)

    def describe(self) -> dict[str, Any]:
        """The part of run.json that is known before the training."""
        source = self.source
        row = self.system
        training = source.training
        there = set(self.clips.index["actor"])
        pretrained = self.params.checkpoint("video") if "frames" in row.inputs else None
        model = {"class": row.model, **row.options, **source.model.model_dump(mode="json")}
        if row.group == "hybrid":
            pretrained = self.params.checkpoint(row.schedule)
            model["hybrid"] = source.hybrid.model_dump(mode="json", exclude={"alexnet", "c3d"})
        return {
            "row": self.row,
            "fold": self.fold,
            "seed": self.seed,
            "data": self.params.data,
            **recorded(self.params.corpus_name),
            "emotions": self.params.corpus.emotions,
            "protocol": self.params.protocol,
            "actors": {
                name: [actor for actor in actors if actor in there]
                for name, actors in vars(self.split).items()
            },
            "model": model,
            "schedule": self.schedule.model_dump() if self.schedule else None,
            "training": training.common | {"precision": self.precision},
            "preprocess": source.preprocess.model_dump(),
            "pretrained_sha256": pretrained and file_hash(pretrained),
            "data_sha256": self.clips.sha256,
            "starts_from_sha256": {
                name: file_hash(path) for name, path in self.starts_from.items()
            },
            "versions": provenance.versions(),
        }


def changed_by(row: Row, source: SourceParams) -> SourceParams:
    """A data source's section of params.yaml with the values that a row changes."""
    changes = {name: dict(getattr(row, name)) for name in ("training", "preprocess")}
    if row.group == "hybrid":
        changes["preprocess"] |= source.hybrid.model_dump(include={"n_frames", "frame_size"})
    return source.model_copy(
        update={
            name: getattr(source, name).model_copy(update=values)
            for name, values in changes.items()
        }
    )


def is_a_change(row: Row, params: Params) -> bool:
    """Whether what a switch changes is not set already, and the data have its subject."""
    if row.group != "switches":
        return True
    if params.draws_landmarks and "crop" in row.preprocess:
        return False  # nothing is cropped out of a drawn face
    changes_settings = row.training or row.preprocess
    return not changes_settings or changed_by(row, params.source) != params.source


def starting_weights(row: str, fold: int, seed: int, params: Params, runs: Path) -> dict[str, Path]:
    """What a row starts from, see `Experiment`; nothing where all is drawn at random.

    Raises:
        InputError: it is not there yet.
    """
    system = find(row)
    checkpoint = params.checkpoint(system.schedule)
    if checkpoint is not None:
        return {"video" if system.of_face else "audio": checkpoint}
    found = {}
    for module, (name, before) in predecessors(row, seed, params.seeds).items():
        found[module] = run_folder(runs, name, fold, before) / "weights.pt"
        if not found[module].exists():
            raise InputError(
                f"{row} starts from {name} of fold {fold}, but there is no {found[module]}; run "
                f"`dvc repro train@{fold}` first"
            )
    return found


def predecessors(row: str, seed: int, seeds: Sequence[int]) -> dict[str, tuple[str, int]]:
    """The run, as row and seed, whose weights each module of a run's model starts from."""
    system = find(row)
    if system.members is not None:
        return {
            f"members.{i}": (system.members, member)
            for i, member in enumerate(seeds[: system.n_members])
        }
    own = seed - system.seed_step
    return {
        module: (name, own + find(name).seed_step) for module, name in system.starts_from.items()
    }


def start_from(module: nn.Module, name: str, path: Path) -> None:
    """Load a module's weights, of a run or of a checkpoint with the names of public ones.

    A head that `module` lacks, or that is of other classes, is left behind.

    Args:
        name: the attribute that holds the module in the model of the run.

    Raises:
        InputError: no weights, or of another network.
    """
    given = {
        key.removeprefix("module.").removeprefix(f"{name}."): tensor
        for key, tensor in read_tensors(path).items()
    }
    weights, problems = module.state_dict(), []
    for key, own in weights.items():
        if key in given and given[key].shape == own.shape:
            weights[key] = given[key]
        # Checkpoints of torch 0.3 do not count batches.
        elif not key.startswith(_HEADS) and not key.endswith(".num_batches_tracked"):
            found = f"one of {tuple(given[key].shape)}" if key in given else "none"
            problems.append(f"expected a {key} of {tuple(own.shape)}, found {found}")
    parts = {part for part, _ in module.named_children()} - {"fc"}
    surplus = [key for key in given if key not in weights and key.split(".")[0] in parts]
    problems += [f"it has a {key} too many" for key in surplus]
    if problems:
        raise InputError(
            f"{path} does not fit the {name} encoder: {problems[0]}; compare model: in params.yaml "
            "with the network that was saved"
        )
    module.load_state_dict(weights)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a state dict, or of a checkpoint's `state_dict`, by name.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: there are none, not those that the run.json beside them tells of, with wrong
            checksums, or such that are not finite.
    """
    if path.with_name("run.json").exists():
        info = read_info(path.parent)
        if info["weights_sha256"] != file_hash(path):
            raise InputError(
                f"{path} is not what its training left; train it again with {trained_by(info)}"
            )
    # torch itself does not look at them.
    if zipfile.is_zipfile(path) and not files.is_whole(path):
        raise InputError(f"{path} is damaged: its checksums do not fit; fetch it again")
    try:
        tensors = _load_tensors(path)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} is no checkpoint, or holds objects that are not safe to load; save its "
            "state_dict alone"
        ) from None
    except (ValueError, EOFError, RuntimeError, AttributeError):
        raise InputError(f"{path} holds no weights; expected what torch.save wrote") from None
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise InputError(f"{path}: {name} is not finite; train it with a lower learning rate")
    return tensors


def _load_tensors(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(str(error)) from None
    content = torch.load(path, weights_only=True, map_location="cpu")
    content = content.get("state_dict", content)
    return {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}


def save_tensors(content: dict[str, Any], path: Path) -> None:
    """`torch.save`, whose own error on a full disk is "unexpected pos 64 vs 0".

    Raises:
        OSError: the disk is full or read-only.
    """
    path.touch()  # a folder that cannot be written says so
    try:
        torch.save(content, path)
    except RuntimeError as error:
        raise OSError(errno.ENOSPC, str(error), str(path)) from error
