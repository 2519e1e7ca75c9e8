"""A trained network back from its run folder, and what it takes to feed it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cfnsr import InputError
from cfnsr.data import corpora
from cfnsr.data.clips import Arrays, Clips, Scaling, normalise, split
from cfnsr.models.base import EmotionModel, Sizes
from cfnsr.models.registry import Row, find
from cfnsr.params import Hybrid, Model, Preprocess, Schedule, SourceParams
from cfnsr.training.experiment import read_tensors
from cfnsr.training.runs import read_info, trained_by, weights_path

#: What run.json's `model` says beside its class and its switches.
_SIZE = frozenset(Model.model_fields)


@dataclass(frozen=True, eq=False)
class Trained:
    """A model in evaluation mode on a device, and how its input was made.

    Attributes:
        row: the system, with the switches that it was trained with.
        info: run.json.
        preprocess: how a clip becomes arrays.
        scaling: of each input but frames, from the run's own training actors.
        batch_size: in which its logits were computed; it matters for a row whose clips depend on
            their neighbours (`batch_summed_attention`), and for no other.
    """

    model: EmotionModel
    row: Row
    info: dict[str, Any]
    preprocess: Preprocess
    scaling: Mapping[str, Scaling]
    batch_size: int

    @property
    def corpus(self) -> corpora.Corpus:
        return corpora.of(self.info)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def sees_frames(self) -> bool:
        return "frames" in self.row.inputs

    def frames(self, pictures: np.ndarray) -> Tensor:
        """uint8 (clip, frame, S, S, channel) to float32 (clip, channel, frame, S, S)."""
        # A memory map is read here, and no more of it than these clips.
        return normalise(torch.from_numpy(np.array(pictures)).to(self.device).movedim(-1, 2))

    def scaled(self, name: str, array: np.ndarray) -> Tensor:
        """Any other input, (clip, ...), as the model takes it."""
        return torch.from_numpy(self.scaling[name](array)).to(self.device)

    def arrays(self, clips: Clips, positions: np.ndarray) -> Arrays:
        """What the model is given of the clips at `positions`, unscaled."""
        return clips.arrays(self.row.inputs, positions)

    def test_positions(self, clips: Clips) -> np.ndarray:
        """Where the run's test clips are in `clips`, in index order.

        Raises:
            InputError: `clips` are not those that it was trained on.
        """
        if clips.sha256 != self.info["data_sha256"]:
            raise InputError(
                f"{self.info['row']}, fold {self.info['fold']} was trained on other clips or "
                "another preprocessing than those of build/; run `dvc repro`"
            )
        return clips.of_actors(self.info["actors"]["test"])

    def silence(self, clips: Clips) -> Arrays:
        """What stands in for an input that is silenced: there, but it says nothing of any clip.

        The mean of the run's test clips by input, without a dimension of clips, unscaled, in the
        clips' own types.
        """
        arrays = self.arrays(clips, self.test_positions(clips))
        return {name: mean_clip(array) for name, array in arrays.items()}

    def batches(self, n_clips: int) -> list[np.ndarray]:
        """Positions 0 to n_clips - 1 in batches, as in the training's evaluations."""
        return split(np.arange(n_clips), self.batch_size)

    def logits(self, arrays: Arrays) -> np.ndarray:
        """Logits of clips whose inputs these are, unscaled; float32 (clip, emotion)."""
        return self.view(arrays).logits(arrays)

    def untrained(self) -> "Trained":
        """The same with weights drawn anew from the run's seed, as before the training."""
        with torch.random.fork_rng():
            torch.manual_seed(self.info["seed"])
            model = self.row.build(_sizes(self.info, self.preprocess))
        return replace(self, model=model.eval().to(self.device))

    @torch.no_grad()
    def view(self, arrays: Arrays) -> "Viewed":
        """Show the model the frames of clips, if it sees any, before it is given the rest."""
        n_clips, middle = len(next(iter(arrays.values()))), None
        if self.sees_frames:
            video: Any = self.model.video
            batches = (self.frames(arrays["frames"][chosen]) for chosen in self.batches(n_clips))
            middle = torch.cat([video.middle(frames) for frames in batches])
        return Viewed(self, n_clips, middle)


@dataclass(frozen=True, eq=False)
class Viewed:
    """Clips whose frames a model has seen, and with which it is now given other inputs.

    The first stages of the video encoder, which are most of the work and never depend on the
    sound, are computed once: `middle` is what they gave (clip, channel, time, height, width). It
    is None for a model that sees no frames.
    """

    trained: Trained
    n_clips: int
    middle: Tensor | None

    def at(self, positions: np.ndarray) -> "Viewed":
        """Some of the clips, or some of them several times."""
        middle = None if self.middle is None else self.middle[torch.from_numpy(positions)]
        return Viewed(self.trained, len(positions), middle)

    def batches(self, arrays: Arrays) -> Iterator[tuple[Tensor, ...]]:
        """Inputs to call the model with, before the next batch is asked for.

        Frames are empty; meanwhile the video encoder answers with what it has seen.
        """
        for chosen in self.trained.batches(self.n_clips):
            nothing = torch.empty(len(chosen), 0, device=self.trained.device)
            inputs = (
                nothing if name == "frames" else self.trained.scaled(name, arrays[name][chosen])
                for name in self.trained.row.inputs
            )
            with self._remembered(torch.from_numpy(chosen)):
                yield tuple(inputs)

    @torch.no_grad()
    def logits(self, arrays: Arrays) -> np.ndarray:
        """Logits with these inputs, unscaled, in place of whose frames it has seen its own.

        Returns:
            float32 (clip, emotion).
        """
        found = [self.trained.model(*inputs) for inputs in self.batches(arrays)]
        return torch.cat(found).float().cpu().numpy()

    @contextmanager
    def _remembered(self, chosen: Tensor) -> Iterator[None]:
        if self.middle is None:
            yield
            return
        video: Any = self.trained.model.video
        middle = self.middle[chosen.to(self.middle.device)]
        video.middle = lambda frames: middle
        try:
            yield
        finally:
            del video.middle  # the class's own method is back


def load_trained(folder: Path, device: torch.device | str | None = None) -> Trained:
    """Rebuild the model of one run, see `cfnsr.training.runs`.

    Its size, switches, preprocessing and scaling are those of run.json, not of params.yaml.

    Args:
        device: None is the first GPU where there is one.

    Raises:
        InputError: the folder is missing, no run, or damaged, or the code has changed since.
    """
    info = read_info(folder)
    weights = read_tensors(weights_path(folder))
    try:
        row, preprocess = _row(info), Preprocess.model_validate(info["preprocess"])
        sizes = _sizes(info, preprocess)
        scaling = {name: Scaling.from_dict(each) for name, each in info["scaling"].items()}
        schedule = info["schedule"] and Schedule.model_validate(info["schedule"])
        model = row.build(sizes)
    # Of a class that is not there or takes no such options, too.
    except (ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError):
        raise InputError(
            f"{folder}: run.json is damaged; train it again with {trained_by(info)}"
        ) from None
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError):
        raise InputError(
            f"{folder}: the weights do not fit {row.model} as it is now; train it again with "
            f"{trained_by(info)}"
        ) from None
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    # Fitted without epochs: so small that one batch holds all clips.
    batch_size = schedule.batch_size if schedule else 1_000_000
    return Trained(model.eval().to(device), row, info, preprocess, scaling, batch_size)


def mean_clip(values: np.ndarray) -> np.ndarray:
    """The mean of clips, (clip, ...), in their own type."""
    mean = values.mean(axis=0, dtype=np.float64)  # of float16 the sum would overflow
    return (mean.round() if values.dtype == np.uint8 else mean).astype(values.dtype)


def _row(info: dict[str, Any]) -> Row:
    options = {name: v for name, v in info["model"].items() if name not in {*_SIZE, "hybrid"}}
    return replace(find(info["row"]), model=options.pop("class"), options=options)


def _sizes(info: dict[str, Any], settings: Preprocess) -> Sizes:
    size = Model.model_validate({k: v for k, v in info["model"].items() if k in _SIZE})
    hybrid = Hybrid.model_validate(info["model"].get("hybrid", {}))
    source = SourceParams(model=size, preprocess=settings, hybrid=hybrid)
    return Sizes.of(source, corpora.of(info))
