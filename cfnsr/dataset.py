"""Arrays to batches, augmented on the training device."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torchvision.transforms import v2

from cfnsr import summary
from cfnsr.drawing import draw_faces
from cfnsr.errors import InputError
from cfnsr.params import Drawing
from cfnsr.ravdess import EMOTIONS

# Of ImageNet, as in the release.
RGB_MEAN = (0.485, 0.456, 0.406)
RGB_SD = (0.229, 0.224, 0.225)
#: The share of the picture that a random crop keeps; the release's reaches 1.4, which its crop
#: cannot honour.
CROP_SCALE = (0.8, 1.0)


@dataclass(frozen=True, eq=False)
class Clips:
    """Preprocessed clips, memory-mapped where they are large.

    `frames` is uint8 (clip, frame, S, S, channel), 3 channels of RGB or 1 of drawn strokes;
    `mfcc` float32 (clip, coefficient, time); `log_mel` float16 (clip, band, time);
    `landmark_statistics` float32 (clip, statistic); `emotion` the
    class index of each clip; `sha256` stands for all of it.
    """

    index: pd.DataFrame
    frames: np.ndarray
    mfcc: np.ndarray
    log_mel: np.ndarray
    landmark_statistics: np.ndarray
    sha256: str

    @cached_property
    def emotion(self) -> np.ndarray:
        return self.index["emotion"].map(EMOTIONS.index).to_numpy(np.int64)

    @property
    def frame_size(self) -> int:
        """Height and width of a frame, pixels."""
        return self.frames.shape[2]

    @cached_property
    def statistics(self) -> np.ndarray:
        """What the linear yardstick knows of each clip: (clip, statistic, 1), unscaled."""
        of_mfcc = summary.mfcc_statistics(self.mfcc)
        return np.concatenate([self.landmark_statistics, of_mfcc], axis=1)[:, :, None]

    def of_actors(self, actors: Iterable[int]) -> np.ndarray:
        """The positions of these actors' clips, in index order."""
        return np.flatnonzero(self.index["actor"].isin(list(actors)))


def load(folder: Path, drawing: Drawing) -> Clips:
    """Open what preprocessing left in `folder`; landmarks are drawn now.

    Raises:
        InputError: there is nothing.
    """
    if not (folder / "index.csv").exists():
        raise InputError(f"{folder} holds no preprocessed clips; run `dvc repro preprocess`")
    index = pd.read_csv(folder / "index.csv", dtype={"clip": str})
    settings = json.loads((folder / "settings.json").read_text())
    if (folder / "points.npy").exists():
        points = np.load(folder / "points.npy")
        size = settings["frame_size"]
        frames = np.stack([draw_faces(clip, size, drawing)[..., None] for clip in points])
        settings["drawing"] = drawing.model_dump()
    else:
        frames = np.load(folder / "frames.npy", mmap_mode="r")
    what = json.dumps(settings, sort_keys=True) + index.to_csv(lineterminator="\n")
    return Clips(
        index,
        frames,
        np.load(folder / "mfcc.npy"),
        np.load(folder / "log_mel.npy", mmap_mode="r"),
        np.load(folder / "landmark_statistics.npy"),
        hashlib.sha256(what.encode()).hexdigest(),
    )


@dataclass(frozen=True)
class Scaling:
    """Mean and standard deviation of each coefficient or band, over clips and time."""

    mean: np.ndarray
    sd: np.ndarray

    @classmethod
    def of(cls, sound: np.ndarray) -> "Scaling":
        """From training clips (clip, coefficient, time)."""
        sound = np.asarray(sound, np.float64)
        # A constant coefficient has nothing to scale.
        return cls(sound.mean(axis=(0, 2)), np.maximum(sound.std(axis=(0, 2)), 1e-6))

    def __call__(self, sound: np.ndarray) -> np.ndarray:
        """Standardise (clip, coefficient, time) to float32."""
        scaled = (sound - self.mean[:, None]) / self.sd[:, None]
        return scaled.astype(np.float32)


@dataclass(frozen=True)
class Batch:
    """`frames` (clip, 3, frame, S, S), normalised; `sound` (clip, band, time); `emotion` (clip,).

    A modality that the model does not use is empty.
    """

    frames: Tensor
    sound: Tensor
    emotion: Tensor


@dataclass(frozen=True, eq=False)
class Loader:
    """Batches of chosen clips on a device.

    `sound` (clip, band, time) is what the model hears of all clips, already scaled. Frames stay
    where they are as uint8 and are augmented and normalised on the device.
    """

    clips: Clips
    sound: np.ndarray
    uses_video: bool
    uses_audio: bool
    augment: v2.Transform
    device: torch.device

    def batches(
        self, positions: np.ndarray, batch_size: int, augmented: bool = False
    ) -> Iterator[Batch]:
        """The clips at `positions` in that order, in batches of nearly equal size.

        A batch of one clip has no batch statistics to normalise with: there is none unless there
        is but one clip. So an odd number of clips in batches of 2 makes one batch of 3.
        """
        n_batches = min(math.ceil(len(positions) / batch_size), max(len(positions) // 2, 1))
        for chosen in np.array_split(positions, n_batches):
            emotion = torch.from_numpy(self.clips.emotion[chosen]).to(self.device)
            frames = sound = torch.empty(len(chosen), 0, device=self.device)
            if self.uses_audio:
                sound = torch.from_numpy(self.sound[chosen]).to(self.device)
            if self.uses_video:
                frames = normalise(self._pictures(chosen, augmented))
            yield Batch(frames, sound, emotion)

    def _pictures(self, chosen: np.ndarray, augmented: bool) -> Tensor:
        pictures = torch.from_numpy(self.clips.frames[chosen]).to(self.device)
        pictures = pictures.movedim(-1, 2)  # clip frame channel height width
        if augmented:
            pictures = torch.stack([self.augment(clip) for clip in pictures])
        return pictures


def normalise(pictures: Tensor) -> Tensor:
    """uint8 (clip, frame, channel, S, S) to float32 (clip, 3, frame, S, S), scaled as the release.

    Drawn strokes have one channel, which is repeated.
    """
    mean = torch.tensor(RGB_MEAN, device=pictures.device)[:, None, None]
    sd = torch.tensor(RGB_SD, device=pictures.device)[:, None, None]
    return ((pictures / 255 - mean) / sd).transpose(1, 2)


def augmentation(frame_size: int, per_frame: bool = False) -> v2.Transform:
    """Random crop and level flip (section 3.2) of one clip, uint8 (frame, channel, S, S).

    One draw a clip, so that its motion stays the actor's; the release draws anew for every frame.
    """
    draw = v2.Compose(
        [
            v2.RandomResizedCrop((frame_size, frame_size), scale=CROP_SCALE, antialias=False),
            v2.RandomHorizontalFlip(),
        ]
    )
    if not per_frame:
        return draw
    return v2.Lambda(lambda clip: torch.stack([draw(frame) for frame in clip]))
