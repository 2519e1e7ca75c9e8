"""Statistics of a whole clip: what the linear yardstick knows of it."""

import numpy as np

from cfnsr.data.landmarks import N_LANDMARKS

N_LANDMARK_STATISTICS = 3 * 2 * N_LANDMARKS + 2 * 4
N_STATISTICS_PER_MFCC = 5


def landmark_statistics(tracks: np.ndarray) -> np.ndarray:
    """How a face is shaped and moves, float32 (416,).

    Mean, standard deviation and mean absolute change from frame to frame of the 68 points in the
    face's own frame, and the last two of the head's position, roll and log size.

    Args:
        tracks: (frame, 140), see `cfnsr.data.motion`.
    """
    shape, head = np.split(tracks, [2 * N_LANDMARKS], axis=1)
    return np.concatenate([shape.mean(axis=0), *_motion(shape), *_motion(head)]).astype(np.float32)


def mfcc_statistics(mfcc: np.ndarray) -> np.ndarray:
    """Mean, standard deviation, mean absolute change, largest and smallest value of each MFCC.

    Args:
        mfcc: (clip, coefficient, time).

    Returns:
        float32 (clip, 5 x coefficient).
    """
    changes = np.abs(np.diff(mfcc, axis=2)).mean(axis=2)
    parts = [mfcc.mean(axis=2), mfcc.std(axis=2), changes, mfcc.max(axis=2), mfcc.min(axis=2)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _motion(track: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviation and mean absolute change of (frame, value); zero for a single frame."""
    changes = np.abs(np.diff(track, axis=0))
    return track.std(axis=0), changes.mean(axis=0) if len(changes) else np.zeros(track.shape[1])
