"""Arrays to batches, augmented on the training device."""

import hashlib
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from cfnsr import InputError
from cfnsr.data import corpora, motion, summary

# Of ImageNet, as in the release.
RGB_MEAN = (0.485, 0.456, 0.406)
RGB_SD = (0.229, 0.224, 0.225)
#: The share of the picture that a random crop keeps; the release's reaches 1.4, which its crop
#: cannot honour.
CROP_SCALE = (0.8, 1.0)
#: How many batches are gathered while a GPU works on another.
N_AHEAD = 2

#: uint8 pictures (clip, frame, channel, S, S) to others of that shape.
Augment = Callable[[Tensor], Tensor]
#: Arrays of clips by their names in `Clips`, each (clip, ...).
Arrays = Mapping[str, np.ndarray]
#: Of a batch: its inputs, frames still uint8 (clip, frame, S, S, channel), and its emotions.
OnHost = tuple[Tensor, ...]
#: What a model is given, in the order in which it takes it, and emotions (clip,). Frames are
#: (clip, 3 or 1, frame, S, S), normalised; their channels come last in memory.
Batch = tuple[tuple[Tensor, ...], Tensor]


@dataclass(frozen=True, eq=False)
class Clips:
    """Preprocessed clips, memory-mapped where they are large.

    `frames` is uint8 (clip, frame, S, S, channel), 3 channels of RGB or 1 of drawn strokes;
    `mfcc` float32 (clip, coefficient, time); `log_mel` float16 (clip, band, time);
    `landmark_statistics` float32 (clip, statistic); `motion` float32 (clip, track, moment);
    `segment_mel` float16 (clip, channel * band, segment, moment), None unless frames are those of
    segments; `emotion` the class index of each clip; `sha256` stands for all of it.
    """

    index: pd.DataFrame
    frames: np.ndarray
    mfcc: np.ndarray
    log_mel: np.ndarray
    landmark_statistics: np.ndarray
    motion: np.ndarray
    sha256: str
    segment_mel: np.ndarray | None = None
    corpus: corpora.Corpus = corpora.CORPORA[corpora.DEFAULT]

    @cached_property
    def emotion(self) -> np.ndarray:
        return self.index["emotion"].map(self.corpus.emotions.index).to_numpy(np.int64)

    @property
    def frame_size(self) -> int:
        """Height and width of a frame, pixels."""
        return self.frames.shape[2]

    @cached_property
    def mfcc_statistics(self) -> np.ndarray:
        """See `cfnsr.data.summary`: (clip, statistic)."""
        return summary.mfcc_statistics(self.mfcc)

    @cached_property
    def coarse_log_mel(self) -> np.ndarray:
        """See `cfnsr.data.motion`: (clip, band, moment)."""
        return motion.coarse(self.log_mel)

    def arrays(self, names: Iterable[str], positions: np.ndarray) -> Arrays:
        """Arrays of the clips at `positions`, by name, unscaled."""
        return {name: getattr(self, name)[positions] for name in names}

    def of_actors(self, actors: Iterable[int]) -> np.ndarray:
        """The positions of these actors' clips, in index order."""
        return np.flatnonzero(self.index["actor"].isin(list(actors)))


def load_clips(folder: Path) -> Clips:
    """Open what preprocessing left in `folder`.

    Raises:
        InputError: there is nothing.
    """
    if not (folder / "index.csv").exists():
        raise InputError(f"{folder} holds no preprocessed clips; run `dvc repro preprocess`")
    index = pd.read_csv(folder / "index.csv", dtype={"clip": str})
    settings = json.loads((folder / "settings.json").read_text())
    segments = folder / "segment_mel.npy"
    what = json.dumps(settings, sort_keys=True) + index.to_csv(lineterminator="\n")
    return Clips(
        index,
        np.load(folder / "frames.npy", mmap_mode="r"),
        np.load(folder / "mfcc.npy"),
        np.load(folder / "log_mel.npy", mmap_mode="r"),
        np.load(folder / "landmark_statistics.npy"),
        np.load(folder / "motion.npy"),
        hashlib.sha256(what.encode()).hexdigest(),
        np.load(segments, mmap_mode="r") if segments.exists() else None,
        corpora.of(settings),
    )


@dataclass(frozen=True)
class Scaling:
    """Mean and standard deviation of each coefficient, band or track, over clips and time.

    `typical` are the smallest and the largest root mean square of these clips, once scaled.
    """

    mean: np.ndarray
    sd: np.ndarray
    typical: tuple[float, float] = (0.0, math.inf)

    @classmethod
    def of(cls, array: np.ndarray, standardise: bool = True) -> "Scaling":
        """From training clips, (clip, coefficient) or (clip, coefficient, time).

        Args:
            standardise: else all is left as it is.
        """
        values, over = np.asarray(array, np.float64), (0, *range(2, array.ndim))
        mean, sd = values.mean(axis=over), values.std(axis=over)
        if not standardise:
            mean, sd = np.zeros_like(mean), np.ones_like(sd)
        # A constant coefficient has nothing to scale.
        scaling = cls(mean, np.maximum(sd, 1e-6))
        sizes = scaling.sizes(array)
        return replace(scaling, typical=(float(sizes.min()), float(sizes.max())))

    @classmethod
    def from_dict(cls, said: Mapping[str, list[float]]) -> "Scaling":
        """What `as_dict` gave, from run.json."""
        low, high = said["rms"]
        return cls(np.array(said["mean"]), np.array(said["sd"]), (low, high))

    def as_dict(self) -> dict[str, list[float]]:
        return {"mean": self.mean.tolist(), "sd": self.sd.tolist(), "rms": list(self.typical)}

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """Standardise to float32."""
        mean, sd = (part.reshape(-1, *[1] * (array.ndim - 2)) for part in (self.mean, self.sd))
        scaled: np.ndarray = (array - mean) / sd
        return scaled.astype(np.float32)

    def sizes(self, array: np.ndarray) -> np.ndarray:
        """Root mean square of each clip's scaled values, (clip,), of (clip, ...)."""
        scaled = self(array)
        mean = np.square(scaled).mean(axis=tuple(range(1, scaled.ndim)), dtype=np.float64)
        return np.sqrt(mean)


@dataclass(frozen=True, eq=False)
class Loader:
    """Batches of chosen clips on a device.

    `arrays` are those that the model takes, in its order, of all clips: uint8 frames, and the
    others already scaled. The host only copies the chosen clips' frames, ahead of time where the
    device is a GPU; they are augmented and normalised on the device.
    """

    arrays: Arrays
    emotion: np.ndarray
    augment: Augment
    device: torch.device

    def batches(
        self, positions: np.ndarray, batch_size: int, augmented: bool = False
    ) -> Iterator[Batch]:
        """The clips at `positions` in that order, in batches as `split` makes them."""
        parts = split(positions, batch_size)
        # A processor has nothing to gain from a second thread.
        gathered = (
            map(self.gather, parts) if self.device.type == "cpu" else ahead(self.gather, parts)
        )
        for on_host in gathered:
            *inputs, emotion = (part.to(self.device, non_blocking=True) for part in on_host)
            for i, name in enumerate(self.arrays):
                if name == "frames":
                    pictures = inputs[i].movedim(-1, 2)  # clip frame channel height width
                    inputs[i] = normalise(self.augment(pictures) if augmented else pictures)
            yield tuple(inputs), emotion

    def gather(self, chosen: np.ndarray) -> OnHost:
        """The host's part of a batch."""
        return tuple(self._copy(array, chosen) for array in (*self.arrays.values(), self.emotion))

    def _copy(self, array: np.ndarray, chosen: np.ndarray) -> Tensor:
        rows = torch.from_numpy(np.empty((len(chosen), *array.shape[1:]), array.dtype))
        if self.device.type == "cuda":
            # A GPU fetches by itself what lies in pinned memory, while the host goes on.
            rows = torch.empty_like(rows, pin_memory=True)
        # `clip` writes to `out` directly; the positions are valid.
        np.take(array, chosen, axis=0, out=rows.numpy(), mode="clip")
        return rows


def split(positions: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Positions of clips in batches of nearly equal size.

    A batch of one clip has no batch statistics to normalise with: there is none unless there is but
    one clip. So an odd number of clips in batches of 2 makes one batch of 3.
    """
    n_batches = min(math.ceil(len(positions) / batch_size), max(len(positions) // 2, 1))
    return np.array_split(positions, n_batches)


def ahead(gather: Callable[[np.ndarray], OnHost], parts: Iterable[np.ndarray]) -> Iterator[OnHost]:
    """As `map`, computed by a thread up to `N_AHEAD` parts before they are asked for."""
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[OnHost]] = deque()
        for part in parts:
            waiting.append(pool.submit(gather, part))
            if len(waiting) > N_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def normalise(pictures: Tensor) -> Tensor:
    """uint8 (clip, frame, channel, S, S) to float32 (clip, channel, frame, S, S).

    Colours are scaled as in the release.
    """
    # The channels lie last, as on disk: what a convolution is fastest with, and no copy.
    n_channels = pictures.shape[2]
    rows = pictures.movedim(2, -1).flatten(3)  # clip frame height width*channel
    mean, sd = _of_rows(n_channels, pictures.shape[-1], pictures.device)
    scaled = rows.float().div_(255).sub_(mean).div_(sd)
    return scaled.unflatten(3, (-1, n_channels)).movedim(-1, 1)


def colour_statistics(n_channels: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel; grey has the means of the colours'."""
    mean, sd = (torch.tensor(value) for value in (RGB_MEAN, RGB_SD))
    return (mean, sd) if n_channels == 3 else (mean.mean()[None], sd.mean()[None])


@cache
def _of_rows(n_channels: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    # Kept, because sending them with every batch would make the host wait for the device.
    mean, sd = (value.repeat(width).to(device) for value in colour_statistics(n_channels))
    return mean, sd


def augmentation(frame_size: int, per_frame: bool = False) -> Augment:
    """Random crop and level flip (section 3.2).

    One draw a clip, so that its motion stays the actor's; the release draws anew for every frame.
    """
    from torchvision.transforms import v2  # 2.5 s that only a training need pay

    crop = v2.RandomResizedCrop((frame_size, frame_size), scale=CROP_SCALE)
    whole = torch.empty(1, frame_size, frame_size)

    def draw() -> tuple[int, ...]:
        box = crop.make_params([whole])
        return *(box[side] for side in ("top", "left", "height", "width")), int(torch.rand(1) < 0.5)

    def augment(pictures: Tensor) -> Tensor:
        n_clips, n_frames = pictures.shape[:2]
        n_draws = n_frames if per_frame else 1
        draws = torch.tensor(
            [[draw() for _ in range(n_draws)] for _ in range(n_clips)],
            pin_memory=pictures.is_cuda,
        )
        return (crop_at_once if pictures.is_cuda else crop_one_by_one)(pictures, draws)

    return augment


def crop_one_by_one(pictures: Tensor, draws: Tensor) -> Tensor:
    """Cut boxes out of pictures, resize them to the pictures' size, and flip some level.

    Args:
        pictures: uint8 (clip, frame, channel, S, S).
        draws: (clip, 1 or frame, 5): a box's top, left, height and width, and whether to flip.
    """
    from torchvision.transforms.v2 import functional

    size = list(pictures.shape[-2:])
    cropped = torch.empty_like(pictures)
    n_draws = draws.shape[1]
    for source, target, of_clip in zip(pictures, cropped, draws.tolist(), strict=True):
        for part, into, (*box, flipped) in zip(
            source.chunk(n_draws), target.chunk(n_draws), of_clip, strict=True
        ):
            found = functional.resized_crop(part, *box, size=size, antialias=False)
            into.copy_(found.flip(-1) if flipped else found)
    return cropped


def crop_at_once(pictures: Tensor, draws: Tensor) -> Tensor:
    """The same as `crop_one_by_one` but for rounding, for a GPU: a few launches a batch.

    Returns:
        float32, not rounded to whole numbers.
    """
    n_frames, size = pictures.shape[1], pictures.shape[-1]
    draws = draws.to(pictures.device, non_blocking=True)[:, :, None]  # clip draw pixel value
    centres = torch.arange(size, device=pictures.device) + 0.5

    def sampled(start: Tensor, length: Tensor) -> Tensor:
        within = (centres * length / size - 0.5).clamp(min=0).minimum(length - 1)
        return (start + within) * (2 / (size - 1)) - 1

    top, left, height, width, flipped = draws.unbind(-1)
    rows, columns = sampled(top, height), sampled(left, width)
    columns = torch.where(flipped.bool(), columns.flip(-1), columns)
    grid = torch.stack(torch.broadcast_tensors(columns[..., None, :], rows[..., None]), dim=-1)
    grid = grid.expand(-1, n_frames, -1, -1, -1).flatten(0, 1)
    cropped = F.grid_sample(
        pictures.flatten(0, 1).float(), grid, padding_mode="border", align_corners=True
    )
    return cropped.unflatten(0, pictures.shape[:2])
