"""Where the face is in a video whose landmarks nobody took.

Training crops each frame to the box of its 68 landmarks. Here scikit-image's cascade of local
binary patterns, which comes with its weights, looks at a few frames a second; its box is turned
into the landmarks' by the ratios between the two. One face is followed, its box smoothed and
interpolated. The cascade finds upright faces that look at the camera and fill a fifth of the
picture's shorter side or more.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pandas as pd

#: Every how manyth frame is looked at, and over how many of those the median is taken: a second
#: of film.
STEP, N_SMOOTHED = 6, 5
#: Boxes of one face overlap by at least this (intersection over union) from look to look.
SAME_FACE = 0.2
#: What is found in fewer looks beside the face that is followed is taken for a false alarm.
N_CREDIBLE = 3
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


def find_faces(picture: np.ndarray) -> np.ndarray:
    """The boxes that the landmarks of the faces in a picture would have, (face, 2, 2).

    Left and top, right and bottom, in pixels of the picture, uint8 RGB (height, width, 3).
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
    corners = np.array([(each["c"], each["r"]) for each in found]).reshape(-1, 1, 2)
    sizes = np.array([(each["width"], each["height"]) for each in found]).reshape(-1, 1, 2)
    return (corners + LANDMARK_BOX * sizes) / shrink


def track(
    pictures: Iterable[tuple[int, np.ndarray]], n_frames: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The box of the face in every frame of a clip, (frame, 2, 2), and what to warn of.

    Args:
        pictures: the clip's frames in order, with their positions; see `looked_at`.
    """
    looks, height, width = [], 0, 0
    for i, picture in pictures:
        height, width = picture.shape[:2]
        looks.append((i, find_faces(picture)))
    if any(len(boxes) for _, boxes in looks):
        return follow(looks, n_frames)
    half = CENTRE_SHARE * min(height, width) / 2
    centre = np.array([width, height]) / 2
    warning = (
        f"no face was found in {len(looks)} frames: the middle of the picture is taken for it, "
        "so trust nothing of this; film a face that looks at the camera, or give --landmarks"
    )
    return np.tile([centre - half, centre + half], (n_frames, 1, 1)), (warning,)


def follow(
    looks: Sequence[tuple[int, np.ndarray]], n_frames: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The same from the boxes found in some frames.

    It is the face that is seen largest and longest. Before it comes and after it goes, another
    one is followed, as after a cut.

    Args:
        looks: positions of frames in order, and the boxes (face, 2, 2) found there, one at least.
    """
    first, *others = sorted(
        _paths(looks), key=lambda path: sum(_width(box) for _, box in path), reverse=True
    )
    followed, passed_over = [first], []
    for path in others:
        if len(path) < N_CREDIBLE:
            continue
        if all(path[0][0] > each[-1][0] or path[-1][0] < each[0][0] for each in followed):
            followed.append(path)
        else:
            passed_over.append(path)
    followed.sort(key=lambda path: path[0][0])
    cuts = [(one[-1][0] + two[0][0] + 1) // 2 for one, two in pairwise(followed)]
    stretches = pairwise((0, *cuts, n_frames))
    boxes = np.concatenate(
        [_between(path, *stretch) for path, stretch in zip(followed, stretches, strict=True)]
    )

    warnings = []
    seen = [i for path in followed for i, _ in path]
    edges = [-1, *seen, n_frames]
    gap = int(np.diff(edges).argmax())
    if 2 * len(seen) < len(looks) or edges[gap + 1] - edges[gap] > N_SMOOTHED * STEP:
        warnings.append(
            f"a face was found in only {len(seen)} of {len(looks)} frames, none from frame "
            f"{edges[gap] + 2} to {edges[gap + 1]}, and its place is guessed in the others; give "
            "--landmarks if you can"
        )
    if passed_over:
        i, box = first[0]
        x, y = box.mean(axis=0)
        warnings.append(
            f"there is more than one face: the one at x {x:.0f}, y {y:.0f} in frame {i + 1} is "
            "followed; if it is the wrong one, cut the others out of the picture"
        )
    if cuts:
        warnings.append(jump_warning(cuts[0]))
    return boxes, tuple(warnings)


def jump_warning(frame: int) -> str:
    return (
        f"the face jumps in frame {frame + 1}, as at a cut of scene, so this may be more than one "
        "person; give one take at a time"
    )


def is_elsewhere(pictures: Iterable[tuple[int, np.ndarray]], points: np.ndarray) -> bool:
    """Whether a face is found in some frames of a clip, but in none where its landmarks are.

    In eight takes of RAVDESS the two boxes overlap by 0.8 or more, and by 0.1 at most where all
    coordinates are halved or half as large again.

    Args:
        pictures: the clip's frames, with their positions.
        points: (frame, 68, 2), pixels.
    """
    overlaps = []
    for i, picture in pictures:
        marked = np.stack([points[i].min(axis=0), points[i].max(axis=0)])
        if len(boxes := find_faces(picture)):
            overlaps.append(max(_overlap(marked, box) for box in boxes))
    return len(overlaps) >= N_CREDIBLE and max(overlaps) < SAME_FACE


def looked_at(n_frames: int) -> range:
    """Positions of the frames in which a face is looked for."""
    return range(0, n_frames, STEP)


#: Where a face was found, look by look: positions of frames, and boxes (2, 2).
_Path = list[tuple[int, np.ndarray]]


def _paths(looks: Sequence[tuple[int, np.ndarray]]) -> list[_Path]:
    """The faces of a clip: a box belongs to the face whose last one it overlaps most."""
    paths: list[_Path] = []
    for i, boxes in looks:
        free = set(range(len(paths)))
        for box in _one_each(boxes):
            overlaps = {k: _overlap(paths[k][-1][1], box) for k in free}
            nearest = max(overlaps, key=overlaps.__getitem__, default=None)
            if nearest is None or overlaps[nearest] < SAME_FACE:
                paths.append([(i, box)])
            else:
                free.remove(nearest)
                paths[nearest].append((i, box))
    return paths


def _one_each(boxes: np.ndarray) -> list[np.ndarray]:
    """The largest box of each face in a picture: the cascade frames some twice."""
    kept: list[np.ndarray] = []
    for box in sorted(boxes, key=_width, reverse=True):
        if all(_overlap(box, each) < SAME_FACE for each in kept):
            kept.append(box)
    return kept


def _between(path: _Path, start: int, end: int) -> np.ndarray:
    """A face's box in each frame of a stretch, (frame, 2, 2)."""
    positions = [i for i, _ in path]
    looks = pd.DataFrame([box.ravel() for _, box in path])
    smooth = looks.rolling(N_SMOOTHED, center=True, min_periods=1).median()
    every = np.arange(start, end)
    sides = [np.interp(every, positions, side) for side in smooth.to_numpy().T]
    return np.stack(sides, axis=1).reshape(-1, 2, 2)


def _width(box: np.ndarray) -> float:
    return float(box[1, 0] - box[0, 0])


def _overlap(one: np.ndarray, two: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    common = np.clip(np.minimum(one[1], two[1]) - np.maximum(one[0], two[0]), 0, None).prod()
    return float(common / (np.prod(one[1] - one[0]) + np.prod(two[1] - two[0]) - common))


@cache
def _cascade() -> Any:
    # Loaded when a face is looked for, which most of the package never does.
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    return Cascade(lbp_frontal_face_cascade_filename())
