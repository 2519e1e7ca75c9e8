"""Statistics of a whole clip: what the linear yardstick knows of it."""

import numpy as np

from cfnsr.video import N_LANDMARKS

LEFT_EYE, RIGHT_EYE = slice(36, 42), slice(42, 48)
N_LANDMARK_STATISTICS = 3 * 2 * N_LANDMARKS + 2 * 4
N_STATISTICS_PER_MFCC = 5


def landmark_statistics(points: np.ndarray) -> np.ndarray:
    """How a face is shaped and moves, float32 (416,).

    Mean, standard deviation and mean absolute change from frame to frame of the 68 points in the
    face's own frame (centred, level eyes a unit apart), and the last two of the head's position,
    roll and log size.

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
