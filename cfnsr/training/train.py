"""Training one row on one fold: epochs, resume, and what a run leaves behind."""

import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import nn
from tqdm import tqdm

from cfnsr.data.clips import Clips, Loader, Scaling, augmentation
from cfnsr.errors import InputError
from cfnsr.models.base import EmotionModel, Sizes
from cfnsr.params import Params, Schedule
from cfnsr.training import memory, provenance
from cfnsr.training.experiment import Experiment, experiments, start_from
from cfnsr.training.runs import CLIP_COLUMNS, Predictions, Run, read_run, write_predictions

#: Saving the state costs about as much as a small epoch, so it is not done after each of them.
SAVE_EVERY_S = 20.0


@dataclass
class History:
    """What has happened so far in a run, one entry an epoch."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    logits: dict[str, list[np.ndarray]] = field(default_factory=dict)  # by held-out set

    def add(self, epoch: dict[str, float], logits: dict[str, np.ndarray]) -> None:
        self.epochs.append(epoch)
        for name, values in logits.items():
            self.logits.setdefault(name, []).append(values)


def run_fold(
    row: str, fold: int, params: Params, clips: Clips, runs: Path, output: Path, scratch: Path
) -> list[Run]:
    """Train a row on a fold, once a seed; a row with members is put together once.

    Args:
        runs: `runs/<data>/<protocol>`, where that is found which the row starts from.
        output: gets one folder `seed_<s>` a seed, as `cfnsr.training.runs` describes.
        scratch: where the state of unfinished trainings is kept.

    Raises:
        InputError: unknown row or fold, missing actors, too few seeds, or something that the row
            starts from is not trained yet.
    """
    results = []
    for experiment in experiments(row, fold, params, clips, runs):
        folder = output / f"seed_{experiment.seed}"
        train(experiment, folder, scratch)
        results.append(read_run(folder))
    return results


def train(experiment: Experiment, folder: Path, scratch: Path) -> None:
    """Train one model and leave its run in `folder`.

    The random numbers of an epoch follow from the run's seed and the epoch alone, so a training
    that was killed and goes on gives the same result as one that was not.
    """
    started = time.time()
    source, system = experiment.params.source, experiment.system
    held_out = _held_out(experiment)
    fabric = _fabric(experiment)
    info = experiment.describe() | provenance.device(fabric.device)
    scratch = scratch / provenance.fingerprint(info)

    torch.manual_seed(experiment.seed)
    model = system.build(Sizes.of(source))
    for name, path in experiment.starts_from.items():
        start_from(model.get_submodule(name), name, path)
    info["n_parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    scaling, loader = _loader(experiment, model, fabric.device)
    _, n_frames, height, width, _ = experiment.clips.frames.shape
    info["forward_gflops"] = model.forward_gflops(
        (3, n_frames, height, width), loader.sound.shape[1:]
    )
    info["scaling"] = {"mean": scaling.mean.tolist(), "sd": scaling.sd.tolist()}

    if experiment.schedule is None:
        history = _fit_at_once(experiment, model, loader, held_out)
    else:
        state = scratch / "state.pt"
        history = _fit(experiment, experiment.schedule, fabric, model, loader, held_out, state)

    partial = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write(partial, history, experiment.clips, held_out, model)
    _write_json(partial / "run.json", info)
    _write_json(partial / "timing.json", provenance.timing(started, time.time()))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    shutil.rmtree(scratch, ignore_errors=True)


def _fabric(experiment: Experiment) -> Fabric:
    training = experiment.params.source.training
    memory.keep_freed()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS is not deterministic
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if training.n_threads is not None:
        torch.set_num_threads(training.n_threads)
    return Fabric(accelerator="auto", devices=1, precision=experiment.precision)


def _loader(
    experiment: Experiment, model: EmotionModel, device: torch.device
) -> tuple[Scaling, Loader]:
    """Batches for this model; its sound is scaled by the statistics of training actors alone."""
    clips, training = experiment.clips, experiment.params.source.training
    sound = clips.sound(model.audio_input)
    scaling = Scaling.of(sound[clips.of_actors(experiment.split.training)])
    if model.audio_input == "mfcc" and not training.standardise_mfcc:
        scaling = Scaling(np.zeros_like(scaling.mean), np.ones_like(scaling.sd))
    augment = augmentation(clips.frame_size, training.augment_per_frame)
    loader = Loader(clips, scaling(sound), model.uses_video, model.uses_audio, augment, device)
    return scaling, loader


def _held_out(experiment: Experiment) -> dict[str, np.ndarray]:
    """Positions of the test clips and, where the protocol has them, of the validation clips."""
    sets = {"training": experiment.split.training, "test": experiment.split.test}
    if experiment.split.validation:
        sets["validation"] = experiment.split.validation
    positions = {name: experiment.clips.of_actors(actors) for name, actors in sets.items()}
    for name, found in positions.items():
        if len(found) == 0:
            raise InputError(
                f"fold {experiment.fold} has no {name} clips: none of the actors "
                f"{', '.join(map(str, sets[name]))} is in the data; add them or choose another fold"
            )
    return {name: found for name, found in positions.items() if name != "training"}


def _fit_at_once(
    experiment: Experiment,
    model: EmotionModel,
    loader: Loader,
    held_out: Mapping[str, np.ndarray],
) -> History:
    """A model that finds its optimum itself: a history of one epoch, by convention."""
    clips = experiment.clips
    training = clips.of_actors(experiment.split.training)
    emotion = clips.emotion[training]
    model.fit(loader.sound[training], emotion, clips.index["actor"].to_numpy()[training])
    model.to(loader.device)
    logits = torch.from_numpy(predict(model, loader, training, len(training)).astype(np.float32))
    target = torch.from_numpy(emotion)
    history = History()
    history.add(
        {
            "epoch": 1,
            "train_loss": nn.functional.cross_entropy(logits, target).item(),
            "train_accuracy_pct": 100 * (logits.argmax(dim=1) == target).float().mean().item(),
        },
        {
            name: predict(model, loader, positions, len(positions))
            for name, positions in held_out.items()
        },
    )
    return history


def _fit(
    experiment: Experiment,
    schedule: Schedule,
    fabric: Fabric,
    model: EmotionModel,
    loader: Loader,
    held_out: Mapping[str, np.ndarray],
    state: Path,
) -> History:
    """All epochs, going on after the last saved one; the model ends with its last weights."""
    emotion = experiment.clips.emotion
    training = experiment.clips.of_actors(experiment.split.training)
    optimizer = torch.optim.Adam(model.parameters(), lr=schedule.learning_rate, fused=True)
    wrapped, wrapped_optimizer = fabric.setup(model, optimizer)
    wrapped.mark_forward_method("loss")
    history = _resume(state, model, optimizer)

    saved_s = time.time()
    progress = tqdm(
        range(len(history.epochs), schedule.n_epochs),
        desc=f"{experiment.row}, fold {experiment.fold}, seed {experiment.seed}",
        initial=len(history.epochs),
        total=schedule.n_epochs,
        unit="epoch",
        mininterval=5,
    )
    for epoch in progress:
        # Not seed + epoch: epoch 2 of seed 1 would repeat epoch 1 of seed 2.
        torch.manual_seed(
            int(np.random.SeedSequence([experiment.seed, epoch]).generate_state(1)[0])
        )
        order = training[torch.randperm(len(training)).numpy()]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(schedule, epoch)
        model.train()
        totals = torch.zeros(2, device=fabric.device)  # loss, clips classified rightly
        for batch in loader.batches(order, schedule.batch_size, augmented=True):
            with fabric.autocast():  # Fabric itself sees to `forward` alone
                loss, logits = wrapped.loss(batch.frames, batch.sound, batch.emotion)
            wrapped_optimizer.zero_grad()
            fabric.backward(loss)
            wrapped_optimizer.step()
            right = (logits.detach().argmax(dim=1) == batch.emotion).sum()
            totals += torch.stack([loss.detach() * len(batch.emotion), right])
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
        history.add(
            {"epoch": epoch + 1, "train_loss": mean_loss, "train_accuracy_pct": 100 * share},
            logits_of,
        )
        tested = 100 * (logits_of["test"].argmax(axis=1) == emotion[held_out["test"]]).mean()
        progress.set_postfix_str(f"loss {mean_loss:.3f}, test {tested:.1f} %", refresh=False)
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
    logits = [
        model(batch.frames, batch.sound).float() for batch in loader.batches(positions, batch_size)
    ]
    return torch.cat(logits).cpu().numpy().astype(np.float16)


def _save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, history: History) -> None:
    """Write the state beside the old one, then replace that: a kill leaves one of the two."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epochs": history.epochs,
        "logits": {
            name: torch.from_numpy(np.stack(logits)) for name, logits in history.logits.items()
        },
    }
    torch.save(state, partial)
    partial.replace(path)


def _resume(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> History:
    if not path.exists():
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
    index = clips.index.assign(emotion=clips.emotion)[list(CLIP_COLUMNS)]
    for name, positions in held_out.items():
        predictions = Predictions(np.stack(history.logits[name]), index.iloc[positions])
        write_predictions(folder, name, predictions)
    epochs = pd.DataFrame(history.epochs)
    epochs.to_csv(folder / "epochs.csv", index=False, float_format="%.6g", lineterminator="\n")
    weights = {name: value.cpu() for name, value in model.state_dict().items()}
    torch.save(weights, folder / "weights.pt")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")
