"""A trained network back from its run folder, and what it takes to feed it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cfnsr.data.clips import Clips, Scaling, normalise, split
from cfnsr.errors import InputError
from cfnsr.models.base import EmotionModel, Sizes
from cfnsr.models.registry import Row, find
from cfnsr.params import Drawing, Model, Preprocess, SourceParams
from cfnsr.training.experiment import read_tensors

#: What run.json's `model` says beside its class and its switches.
_SIZE = frozenset(Model.model_fields)


@dataclass(frozen=True, eq=False)
class Silence:
    """What stands in for a modality that is silenced: it is there, and says nothing of any clip.

    `pictures` (frame, S, S, channel) and `sound` (band, time), unscaled, in the clips' own types.
    """

    pictures: np.ndarray
    sound: np.ndarray

    @classmethod
    def of(cls, pictures: np.ndarray, sound: np.ndarray) -> "Silence":
        """The mean of clips, (clip, frame, S, S, channel) and (clip, band, time)."""
        return cls(_mean_clip(pictures), _mean_clip(sound))


@dataclass(frozen=True, eq=False)
class Trained:
    """A model in evaluation mode on a device, and how its input was made.

    Attributes:
        row: the system, with the switches that it was trained with.
        info: run.json.
        preprocess: how a clip becomes arrays.
        scaling: of the run's own training actors.
        batch_size: in which its logits were computed; it matters for a row whose clips depend on
            their neighbours (`cfn_sr_released`), and for no other.
    """

    model: EmotionModel
    row: Row
    info: dict[str, Any]
    preprocess: Preprocess
    scaling: Scaling
    batch_size: int

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def drawing(self) -> Drawing:
        """How landmarks become pictures."""
        return Drawing.model_validate(self.info["drawing"])

    @property
    def uses_video(self) -> bool:
        return self.model.uses_video

    @property
    def uses_audio(self) -> bool:
        return self.model.uses_audio

    def frames(self, pictures: np.ndarray) -> Tensor:
        """uint8 (clip, frame, S, S, channel) to float32 (clip, 3, frame, S, S), normalised.

        Empty for a model that sees nothing.
        """
        if not self.uses_video:
            return torch.empty(len(pictures), 0, device=self.device)
        # A memory map is read here, and no more of it than these clips.
        return normalise(torch.from_numpy(np.array(pictures)).to(self.device).movedim(-1, 2))

    def sound(self, unscaled: np.ndarray) -> Tensor:
        """MFCCs, or what `model.audio_input` names, (clip, band, time), to float32, scaled.

        Empty for a model that hears nothing.
        """
        if not self.uses_audio:
            return torch.empty(len(unscaled), 0, device=self.device)
        return torch.from_numpy(self.scaling(unscaled)).to(self.device)

    def sound_of(self, clips: Clips) -> np.ndarray:
        """What the model hears of all clips, unscaled (clip, band, time)."""
        return clips.sound(self.model.audio_input)

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

    def silence(self, clips: Clips) -> Silence:
        """The mean of the run's test clips."""
        test = self.test_positions(clips)
        return Silence.of(clips.frames[test], self.sound_of(clips)[test])

    def batches(self, n_clips: int) -> list[np.ndarray]:
        """Positions 0 to n_clips - 1 in batches, as in the training's evaluations."""
        return split(np.arange(n_clips), self.batch_size)

    def logits(self, pictures: np.ndarray, unscaled: np.ndarray) -> np.ndarray:
        """Logits of clips as `frames` and `sound` take them, float32 (clip, emotion)."""
        return self.view(pictures).logits(unscaled)

    def untrained(self) -> "Trained":
        """The same with weights drawn anew from the run's seed, as before the training."""
        with torch.random.fork_rng():
            torch.manual_seed(self.info["seed"])
            model = self.row.build(_sizes(self.info, self.preprocess))
        return replace(self, model=model.eval().to(self.device))

    @torch.no_grad()
    def view(self, pictures: np.ndarray) -> "Viewed":
        """Show the model these clips, uint8 (clip, frame, S, S, channel), before it hears them."""
        middle = None
        if self.uses_video:
            video: Any = self.model.video
            batches = (self.frames(pictures[chosen]) for chosen in self.batches(len(pictures)))
            middle = torch.cat([video.middle(frames) for frames in batches])
        return Viewed(self, len(pictures), middle)


@dataclass(frozen=True, eq=False)
class Viewed:
    """Clips that a model has seen already, and now hears in one or several ways.

    The first stages of the video encoder, which are most of the work and never depend on the
    sound, are computed once: `middle` is what they gave (clip, channel, time, height, width). It
    is None for a model that sees nothing.
    """

    trained: Trained
    n_clips: int
    middle: Tensor | None

    def at(self, positions: np.ndarray) -> "Viewed":
        """Some of the clips, or some of them several times."""
        middle = None if self.middle is None else self.middle[torch.from_numpy(positions)]
        return Viewed(self.trained, len(positions), middle)

    def batches(self, unscaled: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
        """Frames and sound to call the model with, before the next batch is asked for.

        The frames are empty; meanwhile the video encoder answers with what it has seen.
        """
        for chosen in self.trained.batches(self.n_clips):
            frames = torch.empty(len(chosen), 0, device=self.trained.device)
            with self._remembered(torch.from_numpy(chosen)):
                yield frames, self.trained.sound(unscaled[chosen])

    @torch.no_grad()
    def logits(self, unscaled: np.ndarray) -> np.ndarray:
        """Logits with this sound, float32 (clip, emotion)."""
        found = [self.trained.model(*batch) for batch in self.batches(unscaled)]
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
    try:
        weights = read_tensors(folder / "weights.pt")
    except FileNotFoundError:
        raise _no_run(folder, "weights.pt") from None
    except (InputError, OSError):
        raise InputError(f"{folder} is damaged; remove it and train again") from None
    try:
        row, preprocess = _row(info), Preprocess.model_validate(info["preprocess"])
        sizes = _sizes(info, preprocess)
        scaling = Scaling(*(np.array(info["scaling"][name]) for name in ("mean", "sd")))
        schedule = info["schedule"]
    except InputError:
        raise
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{folder}: run.json is damaged; train the run again") from None
    model = row.build(sizes)
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError):
        raise InputError(
            f"{folder}: the weights do not fit {row.model} as it is now; train the run again with "
            "`dvc repro`"
        ) from None
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    # Fitted without epochs: so small that one batch holds all clips.
    batch_size = schedule["batch_size"] if schedule else 1_000_000
    return Trained(model.eval().to(device), row, info, preprocess, scaling, batch_size)


def read_info(folder: Path) -> dict[str, Any]:
    """A run's run.json.

    Raises:
        InputError: the folder is missing, no run, or damaged.
    """
    try:
        info: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise _no_run(folder, "run.json") from None
    except (ValueError, OSError):
        raise InputError(f"{folder} is damaged; remove it and train again") from None
    return info


def _mean_clip(values: np.ndarray) -> np.ndarray:
    mean = values.mean(axis=0, dtype=np.float64)  # of float16 the sum would overflow
    return (mean.round() if values.dtype == np.uint8 else mean).astype(values.dtype)


def _row(info: dict[str, Any]) -> Row:
    options = {name: value for name, value in info["model"].items() if name not in _SIZE}
    return replace(find(info["row"]), model=options.pop("class"), options=options)


def _sizes(info: dict[str, Any], settings: Preprocess) -> Sizes:
    size = Model.model_validate({k: v for k, v in info["model"].items() if k in _SIZE})
    return Sizes.of(SourceParams(model=size, preprocess=settings))


def _no_run(folder: Path, missing: str) -> InputError:
    seeds = sorted(folder.glob("seed_*"))
    hint = f"; did you mean {seeds[0]}?" if seeds else ", as `dvc repro` leaves it"
    return InputError(
        f"{folder} holds no {missing}; expected a trained run, "
        f"runs/<data>/<protocol>/<group>/fold_<k>/<row>/seed_<s>{hint}"
    )
