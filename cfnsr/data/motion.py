"""Facial motion: landmarks as tracks over time, on the clock of the sound."""

import numpy as np

from cfnsr.data.audio import HOP, N_MELS, n_mfcc_frames
from cfnsr.data.landmarks import N_LANDMARKS
from cfnsr.params import Preprocess

LEFT_EYE, RIGHT_EYE = slice(36, 42), slice(42, 48)
#: dlib's 68 points in the order of their mirror images.
MIRRORED = (
    *range(16, -1, -1),  # jaw
    *range(26, 16, -1),  # brows
    *range(27, 31),  # bridge of the nose
    *range(35, 30, -1),
    *(45, 44, 43, 42, 47, 46),  # eyes
    *(39, 38, 37, 36, 41, 40),
    *range(54, 47, -1),  # outer lips
    *range(59, 54, -1),
    *range(64, 59, -1),  # inner lips
    *range(67, 64, -1),
)
#: Two a landmark, and the head's position (2), roll and size.
N_TRACKS = 2 * N_LANDMARKS + 4
#: Tracks have one value every so many MFCC frames: each 46 ms, where a video has 1.4 frames.
STRIDE = 4
#: So many bands of the spectrogram become one beside the tracks.
BANDS_JOINED = 2
N_BANDS = N_MELS // BANDS_JOINED


def tracks(points: np.ndarray) -> np.ndarray:
    """How a face is shaped and how its head moves, float64 (frame, 140).

    First the 68 points in the face's own frame (centred, level eyes a unit apart), x and y in turn;
    then the head's x, y (in distances between the eyes), roll (radians) and log size, each less
    its mean over the clip: where the camera stood says nothing of an emotion.

    Args:
        points: (frame, 68, 2), pixels.
    """
    centre = points.mean(axis=1)
    between_eyes = points[:, RIGHT_EYE].mean(axis=1) - points[:, LEFT_EYE].mean(axis=1)
    size = np.hypot(*between_eyes.T)
    roll = np.arctan2(between_eyes[:, 1], between_eyes[:, 0])
    cos, sin = np.cos(roll), np.sin(roll)
    level = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)  # frame 2 2
    shape = ((points - centre[:, None]) @ level / size[:, None, None]).reshape(len(points), -1)
    head = np.column_stack([centre / np.median(size), roll, np.log(size)])
    return np.concatenate([shape, head - head.mean(axis=0)], axis=1)


def n_moments(n_heard: int) -> int:
    """How many values a track has beside so many MFCC frames: 53 beside 212."""
    return max(1, n_heard // STRIDE)


def on_the_clock(tracks: np.ndarray, shown_s: np.ndarray, settings: Preprocess) -> np.ndarray:
    """A clip's tracks in the window whose sound is analysed, float32 (140, moment).

    Args:
        tracks: (frame, 140).
        shown_s: (frame,), the middle of each frame, seconds of the clip.
    """
    n_heard = n_mfcc_frames(settings.sample_rate_hz, settings.duration_s)
    middle = np.arange(n_moments(n_heard)) * STRIDE + (STRIDE - 1) / 2  # MFCC frames
    wanted_s = settings.offset_s + middle * HOP / settings.sample_rate_hz
    values = [np.interp(wanted_s, shown_s, track) for track in tracks.T]
    return np.stack(values).astype(np.float32)


def coarse(log_mel: np.ndarray) -> np.ndarray:
    """A spectrogram at the moments of the tracks, float32 (clip, 64, moment).

    Args:
        log_mel: (clip, 128, time).
    """
    moments = n_moments(log_mel.shape[2])
    cells = log_mel[:, :, : moments * STRIDE].astype(np.float32)
    cells = cells.reshape(len(log_mel), N_BANDS, BANDS_JOINED, moments, -1)
    return cells.mean(axis=(2, 4))
