"""Training one row on one fold with one seed: epochs, resume, and what the run leaves behind."""

import json
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from pooch import file_hash
from torch import nn

from cfnsr import InputError, cluster
from cfnsr.data import files
from cfnsr.data.clips import Clips, Loader, Scaling, augmentation
from cfnsr.data.files import writing
from cfnsr.models.base import EmotionModel, Sizes
from cfnsr.models.late_fusion import LateFusion
from cfnsr.models.registry import FEATURES
from cfnsr.models.segment_networks import SegmentNetwork
from cfnsr.params import Schedule
from cfnsr.training import provenance
from cfnsr.training.experiment import Experiment, save_tensors, start_from
from cfnsr.training.runs import Predictions, read_run, write_predictions

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: Saving the state costs about as much as a small epoch, so it is not done after each of them.
SAVE_EVERY_S = 20.0
#: So many clips at a time become features.
FEATURE_BATCH = 16

#: What epochs.csv says of one, and the logits of each held-out set.
Epoch = tuple[dict[str, float], dict[str, np.ndarray]]


@dataclass
class History:
    """What has happened so far in a run, one entry an epoch."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    logits: dict[str, list[np.ndarray]] = field(default_factory=dict)  # by held-out set

    def add(self, epoch: dict[str, float], logits: dict[str, np.ndarray]) -> None:
        self.epochs.append(epoch)
        for name, values in logits.items():
            self.logits.setdefault(name, []).append(values)


def train(
    experiment: Experiment,
    folder: Path,
    scratch: Path,
    report: Callable[[int], None] = lambda epoch: None,
) -> None:
    """Train one model and leave its run in `folder`, unless it is there.

    The random numbers of an epoch follow from the run's seed and the epoch alone, so a training
    that was killed and goes on gives the same result as one that was not.

    Args:
        scratch: where the state of unfinished trainings is kept.
        report: is called after each epoch with its number.

    Raises:
        InputError: actors are missing, a logit is not finite, the training diverges, or the disk
            is full or read-only.
    """
    started = datetime.now(UTC)
    source, system = experiment.source, experiment.system
    info = wanted_info(experiment)
    if is_there(folder, info):
        return
    held_out = _held_out(experiment)
    fabric = _fabric(experiment)
    scratch = scratch / provenance.sha256(info)[:32]

    torch.manual_seed(experiment.seed)
    model = system.build(Sizes.of(source, experiment.params.corpus))
    weights = {name: path for name, path in experiment.starts_from.items() if name not in FEATURES}
    for name, path in weights.items():
        start_from(model.get_submodule(name), name, path)
    info["n_parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    scaling, loader = _loader(experiment, fabric.device)
    shapes = {name: array.shape[1:] for name, array in loader.arrays.items()}
    if "frames" in shapes:
        *pictures, n_channels = shapes["frames"]
        shapes["frames"] = (n_channels, *pictures)
    info["forward_gflops"] = model.forward_gflops(*shapes.values())
    info["scaling"] = {name: each.as_dict() for name, each in scaling.items()}

    history = History()
    if isinstance(model, LateFusion) and system.combines:
        runs = [path.parent for path in weights.values()]
        history.add(*_combined(experiment, model, runs, held_out))
    elif experiment.schedule is None:
        history.add(*_fit_at_once(experiment, model, loader, held_out))
    else:
        state = scratch / "state.pt"
        history = _fit(
            experiment, experiment.schedule, fabric, model, loader, held_out, state, report
        )

    partial = scratch / f"{platform.node()}-{os.getpid()}"
    with writing(partial, _n_bytes(model)):
        partial.mkdir(parents=True)
        _write(partial, history, experiment.clips, held_out, model)
        if isinstance(model, SegmentNetwork):
            np.save(partial / "fc7.npy", fc7(model, loader))
        info["weights_sha256"] = file_hash(partial / "weights.pt")
        _write_json(partial / "run.json", info)
        _write_json(partial / "timing.json", provenance.timing(started))
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            partial.rename(folder)
        except OSError:
            # A worker that was cut off and taken for lost may have finished the same run meanwhile.
            if not is_there(folder, wanted_info(experiment)):
                raise
    shutil.rmtree(scratch, ignore_errors=True)


def wanted_info(experiment: Experiment) -> dict[str, Any]:
    """All of run.json that is known before the training: a run that says the same is the same."""
    return {
        **experiment.describe(),
        **provenance.device(),
        "code_sha256": provenance.code_sha256(experiment.system.model),
    }


def is_there(folder: Path, wanted: Mapping[str, Any]) -> bool:
    """Whether `folder` holds the run that is wanted, see `wanted_info`, and the weights it left."""
    try:
        info = json.loads((folder / "run.json").read_text())
        found = {name: info[name] for name in wanted}
        is_wanted = found == json.loads(json.dumps(wanted))
        return is_wanted and info["weights_sha256"] == file_hash(folder / "weights.pt")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _fabric(experiment: Experiment) -> "Fabric":
    # 1.5 s that a run which is there already need not pay.
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment

    has_same_bits = cluster.SAME_BITS.items() <= os.environ.items()
    if experiment.source.training.same_bits and not has_same_bits:
        raise InputError(
            "same_bits is set, but this process was started without it; train with `dvc repro`, on "
            "the workers of `python -m cfnsr cluster`, or set same_bits: false"
        )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS is not deterministic
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # One training a core is faster than one training on several, and its sums do not depend on
    # how many there are.
    torch.set_num_threads(1)
    # It is one of Dask's tasks, whatever else starts processes on this machine.
    return Fabric(
        accelerator="auto",
        devices=1,
        precision=experiment.precision,
        plugins=LightningEnvironment(),
    )


def _loader(experiment: Experiment, device: torch.device) -> tuple[dict[str, Scaling], Loader]:
    """Batches for a row; all but frames is scaled by the statistics of training actors alone."""
    clips, training = experiment.clips, experiment.source.training
    trained_on = clips.of_actors(experiment.split.training)
    scaling, arrays = {}, {}
    for name in experiment.system.inputs:
        arrays[name] = array = experiment.array(name)
        if name != "frames":
            standardise = name != "mfcc" or training.standardise_mfcc
            scaling[name] = Scaling.of(array[trained_on], standardise)
            arrays[name] = scaling[name](array)
    augment = augmentation(clips.frame_size, training.augment_per_frame)
    return scaling, Loader(arrays, clips.emotion, augment, device)


def _held_out(experiment: Experiment) -> dict[str, np.ndarray]:
    """Positions of the clips that test and that choose the epoch, as far as the split has them."""
    sets = {name: actors for name, actors in vars(experiment.split).items() if actors}
    positions = {name: experiment.clips.of_actors(actors) for name, actors in sets.items()}
    for name, found in positions.items():
        if len(found) == 0:
            raise InputError(
                f"fold {experiment.fold} has no {name} clips: none of the actors "
                f"{', '.join(map(str, sets[name]))} is in the data; add them or choose another fold"
            )
    return {name: found for name, found in positions.items() if name != "training"}


def _combined(
    experiment: Experiment,
    model: LateFusion,
    runs: Sequence[Path],
    held_out: Mapping[str, np.ndarray],
) -> Epoch:
    """The decisions of trained networks, joined as they were kept: one epoch, by convention."""
    nothing = {"epoch": 1, "train_loss": math.nan, "train_accuracy_pct": math.nan}
    parts = [read_run(folder) for folder in runs]
    logits = {}
    for name in held_out:
        kept = [getattr(part, name).logits[-1] for part in parts]
        joined = model.combine(torch.from_numpy(np.stack(kept)).log_softmax(dim=-1))
        logits[name] = _half(joined)
    _check_logits(experiment, 1, held_out, logits)
    return nothing, logits


def _fit_at_once(
    experiment: Experiment,
    model: EmotionModel,
    loader: Loader,
    held_out: Mapping[str, np.ndarray],
) -> Epoch:
    """A model that finds its optimum itself: one epoch, by convention."""
    clips = experiment.clips
    training = clips.of_actors(experiment.split.training)
    emotion = clips.emotion[training]
    inputs = [array[training] for array in loader.arrays.values()]
    model.to(loader.device)
    model.fit(emotion, clips.index["actor"].to_numpy()[training], *inputs)
    every = {"training": training, **held_out}
    found = {name: predict(model, loader, clips, len(clips)) for name, clips in every.items()}
    _check_logits(experiment, 1, every, found)
    logits = torch.from_numpy(found.pop("training").astype(np.float32))
    target = torch.from_numpy(emotion)
    right = logits.argmax(dim=1) == target
    of_training = {
        "epoch": 1,
        "train_loss": nn.functional.cross_entropy(logits, target).item(),
        "train_accuracy_pct": 100 * right.float().mean().item(),
    }
    return of_training, found


def _fit(
    experiment: Experiment,
    schedule: Schedule,
    fabric: "Fabric",
    model: EmotionModel,
    loader: Loader,
    held_out: Mapping[str, np.ndarray],
    state: Path,
    report: Callable[[int], None],
) -> History:
    """All epochs, going on after the last saved one; the model ends with its last weights."""
    training = experiment.clips.of_actors(experiment.split.training)
    optimizer = torch.optim.Adam(model.parameters(), lr=schedule.learning_rate, fused=True)
    wrapped, wrapped_optimizer = fabric.setup(model, optimizer)
    wrapped.mark_forward_method("loss")
    history = _resume(state, model, optimizer)

    saved_s = time.time()
    for epoch in range(len(history.epochs), schedule.n_epochs):
        # Not seed + epoch: epoch 2 of seed 1 would repeat epoch 1 of seed 2.
        torch.manual_seed(
            int(np.random.SeedSequence([experiment.seed, epoch]).generate_state(1)[0])
        )
        order = training[torch.randperm(len(training)).numpy()]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(schedule, epoch)
        model.train()
        totals = torch.zeros(2, device=fabric.device)  # loss, clips classified rightly
        for inputs, emotion in loader.batches(order, schedule.batch_size, augmented=True):
            with fabric.autocast():  # Fabric itself sees to `forward` alone
                loss, logits = wrapped.loss(emotion, *inputs)
            wrapped_optimizer.zero_grad()
            fabric.backward(loss)
            wrapped_optimizer.step()
            right = (logits.detach().argmax(dim=1) == emotion).sum()
            totals += torch.stack([loss.detach() * len(emotion), right])
        mean_loss, share = (totals / len(training)).tolist()
        if not np.isfinite(mean_loss):
            raise InputError(
                f"{experiment.row}, fold {experiment.fold}: the loss is {mean_loss} in epoch "
                f"{epoch + 1}; lower the learning rate ({schedule.learning_rate}) or use precision "
                "32-true"
            )
        logits_of = {
            name: predict(wrapped, loader, positions, schedule.batch_size)
            for name, positions in held_out.items()
        }
        _check_logits(experiment, epoch + 1, held_out, logits_of)
        history.add(
            {"epoch": epoch + 1, "train_loss": mean_loss, "train_accuracy_pct": 100 * share},
            logits_of,
        )
        report(epoch + 1)
        if time.time() - saved_s > SAVE_EVERY_S:
            _save(state, model, optimizer, history)
            saved_s = time.time()
    return history


def learning_rate(schedule: Schedule, epoch: int) -> float:
    """Of an epoch, counted from 0."""
    falling = (1 + math.cos(math.pi * epoch / schedule.n_epochs)) / 2
    return schedule.learning_rate * (falling if schedule.anneal else 1)


@torch.no_grad()
def predict(model: nn.Module, loader: Loader, positions: np.ndarray, batch_size: int) -> np.ndarray:
    """Logits of the clips at `positions` in evaluation mode, float16 (clip, emotion)."""
    model.eval()
    logits = [model(*inputs).float() for inputs, _ in loader.batches(positions, batch_size)]
    return _half(torch.cat(logits))


def _half(logits: torch.Tensor) -> np.ndarray:
    """float16; infinite beyond 65504, see `_check_logits`."""
    with np.errstate(over="ignore"):
        return logits.cpu().numpy().astype(np.float16)


def _check_logits(
    experiment: Experiment,
    epoch: int,
    held_out: Mapping[str, np.ndarray],
    logits: Mapping[str, np.ndarray],
) -> None:
    rate = experiment.schedule and experiment.schedule.learning_rate
    remedy = f"lower the learning rate ({rate})" if rate else "look at these clips"
    for name, positions in held_out.items():
        bad = ~np.isfinite(logits[name]).all(axis=1)
        if bad.any():
            clips = experiment.clips.index["clip"].iloc[positions[bad]]
            named = ", ".join(clips[:3]) + (", …" if len(clips) > 3 else "")
            raise InputError(
                f"{experiment.row}, fold {experiment.fold}: in epoch {epoch} the logits (at most "
                f"65504) of {name} clips are not finite for {len(clips)} of {len(bad)} ({named}); "
                f"{remedy}"
            )


@torch.no_grad()
def fc7(model: SegmentNetwork, loader: Loader) -> np.ndarray:
    """What a network says of each segment of all clips, float32 (clip, unit, segment)."""
    model.eval()
    everything = loader.batches(np.arange(len(loader.emotion)), FEATURE_BATCH)
    return torch.cat([model.fc7(*inputs).float() for inputs, _ in everything]).cpu().numpy()


def _save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, history: History) -> None:
    """Replace the last state: a kill leaves one of the two."""
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epochs": history.epochs,
        "logits": {
            name: torch.from_numpy(np.stack(logits)) for name, logits in history.logits.items()
        },
    }
    # Adam keeps two values for each weight.
    with files.replacing(path, 3 * _n_bytes(model)) as partial:
        save_tensors(state, partial)


def _n_bytes(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def _resume(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> History:
    if not path.exists():
        return History()
    if not files.is_whole(path):
        print(f"{path} cannot be read, so this training starts anew", file=sys.stderr)
        return History()
    state = torch.load(path, weights_only=True, map_location="cpu")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    logits = {name: list(values.numpy()) for name, values in state["logits"].items()}
    return History(state["epochs"], logits)


def _write(
    folder: Path,
    history: History,
    clips: Clips,
    held_out: Mapping[str, np.ndarray],
    model: nn.Module,
) -> None:
    index = clips.index.assign(emotion=clips.emotion)
    for name, positions in held_out.items():
        predictions = Predictions(np.stack(history.logits[name]), index.iloc[positions])
        write_predictions(folder, name, predictions)
    epochs = pd.DataFrame(history.epochs)
    epochs.to_csv(folder / "epochs.csv", index=False, float_format="%.6g", lineterminator="\n")
    weights = {name: value.cpu() for name, value in model.state_dict().items()}
    save_tensors(weights, folder / "weights.pt")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")
