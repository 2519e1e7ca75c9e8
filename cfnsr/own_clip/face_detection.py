"""Where the face is in a video whose landmarks nobody took.

Training crops each frame to the box of its 68 landmarks. Here scikit-image's cascade of local
binary patterns, which comes with its weights, looks at a few frames a second; its box is turned
into the landmarks' by the ratios between the two, smoothed, and interpolated. It finds upright
faces that look at the camera and fill a fifth of the picture's shorter side or more.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

import cv2
import numpy as np

#: Every how manyth frame is looked at, and over how many of those the median is taken: a second
#: of film.
STEP, N_SMOOTHED = 6, 5
#: The landmarks' left, top, right and bottom in the cascade's box (0 left or top, 1 right or
#: bottom): medians over 8 RAVDESS clips of 2 actors. Fitted on one of them, the boxes of the
#: other overlap those of the landmarks by 0.88 (intersection over union; 0.84 in the worst clip).
LANDMARK_BOX = np.array([[0.10, 0.24], [0.93, 1.10]])
#: The side of the crop where no face is found, in the picture's shorter side.
CENTRE_SHARE = 0.5
_LONGER_SIDE_PX = 480
#: Of the picture's shorter side. Looking for smaller ones takes three times as long and finds
#: faces in brick walls.
_SMALLEST_FACE = 0.2


def find_face(picture: np.ndarray) -> np.ndarray | None:
    """The box that the landmarks of the largest face would have.

    Args:
        picture: uint8 RGB (height, width, 3).

    Returns:
        (2, 2): left and top, right and bottom, in pixels; None if no face is found.
    """
    shrink = min(_LONGER_SIDE_PX / max(picture.shape[:2]), 1.0)
    small = cv2.resize(picture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    side = min(small.shape[:2])
    smallest = round(_SMALLEST_FACE * side)
    found = _cascade().detect_multi_scale(
        img=small,
        scale_factor=1.1,
        step_ratio=1,
        min_size=(smallest, smallest),
        max_size=(side, side),
    )
    if not found:
        return None
    box = max(found, key=lambda each: each["width"])
    corner = np.array([box["c"], box["r"]]) / shrink
    size = np.array([box["width"], box["height"]]) / shrink
    return corner + LANDMARK_BOX * size


def track(
    pictures: Iterable[tuple[int, np.ndarray]], n_frames: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The box of the face in every frame of a clip.

    Args:
        pictures: the clip's frames in order, with their positions; see `looked_at`.
        n_frames: of the clip.

    Returns:
        (frame, 2, 2): left and top, right and bottom, in pixels; and what to warn of.
    """
    n_looked, positions, boxes = 0, [], []
    height, width = 0, 0
    for i, picture in pictures:
        n_looked += 1
        height, width = picture.shape[:2]
        box = find_face(picture)
        if box is not None:
            positions.append(i)
            boxes.append(box)
    if not boxes:
        half = CENTRE_SHARE * min(height, width) / 2
        centre = np.array([width, height]) / 2
        warning = (
            f"no face was found in {n_looked} frames: the middle of the picture is taken for it, "
            "so trust nothing of this; film a face that looks at the camera, or give --landmarks"
        )
        return np.tile([centre - half, centre + half], (n_frames, 1, 1)), (warning,)
    smooth = smoothed(np.stack(boxes)).reshape(-1, 4)
    every = np.arange(n_frames)
    whole = np.stack([np.interp(every, positions, side) for side in smooth.T], axis=1)
    warnings: tuple[str, ...] = ()
    if 2 * len(boxes) < n_looked:
        warnings = (
            f"a face was found in only {len(boxes)} of {n_looked} frames, and its place is guessed "
            "in the others; give --landmarks if you can",
        )
    return whole.reshape(-1, 2, 2), warnings


def looked_at(n_frames: int) -> range:
    """Positions of the frames in which a face is looked for."""
    return range(0, n_frames, STEP)


def smoothed(boxes: np.ndarray) -> np.ndarray:
    """The running median of boxes (n, 2, 2) over `N_SMOOTHED` of them, fewer at the ends."""
    half = N_SMOOTHED // 2
    return np.stack(
        [np.median(boxes[max(i - half, 0) : i + half + 1], axis=0) for i in range(len(boxes))]
    )


@cache
def _cascade() -> Any:
    # Loaded when a face is looked for, which most of the package never does.
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    return Cascade(lbp_frontal_face_cascade_filename())
