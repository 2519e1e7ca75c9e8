"""The 68 facial landmarks of a video that no tracker has seen, by dlib.

The points are those of regression trees (Kazemi and Sullivan, CVPR 2014) in a face's box. The boxes
are those of dlib's detector, a few a second, of which one face is followed. The optional extra
`landmarks` installs dlib (Boost licence) and a package of its author's weights
(shape_predictor_68_face_landmarks.dat, 100 MB). The package calls them public domain, but they were
trained on iBUG 300-W, whose licence excludes commercial use.

On 8 clips of 2 actors the error against the landmarks that came with them is 0.58 % of the distance
between the outer corners of the eyes. Those are dlib's too: whole pixels, two in five the same. So
a network trained on them finds what it knows; it is no measure of accuracy. A face that is turned
far to a side gets points all the same.
"""

from collections.abc import Callable, Collection, Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from cfnsr import InputError
from cfnsr.data import face_detection

_WEIGHTS = "models/shape_predictor_68_face_landmarks.dat"
#: The longer side of the picture in which faces are looked for. The smallest that dlib finds are 80
#: pixels wide, an eighth of it.
_LONGER_SIDE_PX = 640
#: The tip of the nose, and the jaw's two sides at its height.
_NOSE_TIP, _JAW_SIDES = 30, (2, 14)
#: How much farther the nose is from one side of the jaw than from the other where a face counts as
#: turned away; in 1 of 100 takes of RAVDESS more than a tenth of the frames do.
TURNED = 3.0
#: How far the points move in one frame at a cut, in distances between the eyes' outer corners; in
#: 1 of 180 takes of RAVDESS some do.
JUMP = 0.2

#: Gives the wanted frames of a clip in order: position and uint8 RGB (height, width, 3), upright.
Pictures = Callable[[Collection[int]], Iterable[tuple[int, np.ndarray]]]


def is_installed() -> bool:
    """Whether the extra `landmarks` is."""
    return find_spec("dlib") is not None and find_spec("face_recognition_models") is not None


class Found(NamedTuple):
    """One face's landmarks in every frame: float64 (frame, 68, 2), pixels; what to warn of.

    A face was looked for in `n_looks` frames and found in `n_seen` of them.
    """

    points: np.ndarray
    warnings: tuple[str, ...]
    n_looks: int
    n_seen: int


def find_landmarks(pictures: Pictures, n_frames: int) -> Found:
    """The landmarks of one face in every frame of a clip.

    Args:
        pictures: is asked twice, for a few frames a second and then for all.

    Raises:
        InputError: no face is found in most frames.
    """
    looks = [(i, _find_faces(each)) for i, each in pictures(face_detection.looked_at(n_frames))]
    n_seen = sum(len(boxes) > 0 for _, boxes in looks)
    if not n_seen or 2 * n_seen < len(looks):
        raise InputError(
            f"a face was found in {n_seen} of {len(looks)} frames; film one that looks at the "
            "camera and fills an eighth of the picture's longer side, or give --landmarks"
        )
    boxes, warnings = face_detection.follow(looks, n_frames)
    points = np.stack([_find_points(each, boxes[i]) for i, each in pictures(range(n_frames))])
    # The same jump is told once.
    told = tuple(dict.fromkeys((*warnings, *_doubts(points))))
    return Found(points, told, len(looks), n_seen)


def _doubts(points: np.ndarray) -> Iterable[str]:
    """What to warn of in a clip's landmarks."""
    nose = points[:, [_NOSE_TIP]]
    near, far = np.sort(np.linalg.norm(points[:, _JAW_SIDES] - nose, axis=-1), axis=1).T
    is_turned = far > TURNED * near
    if is_turned.mean() > 0.1:
        yield (
            f"the face is turned away in {is_turned.sum()} of {len(points)} frames, where its "
            "landmarks are guesses; film it from the front"
        )
    steps = np.linalg.norm(np.diff(points, axis=0), axis=-1).mean(axis=1)
    is_jump = steps > JUMP * np.linalg.norm(points[1:, 45] - points[1:, 36], axis=-1)
    if is_jump.any():
        yield face_detection.jump_warning(int(is_jump.argmax()) + 1)


def _find_faces(picture: np.ndarray) -> np.ndarray:
    """dlib's boxes (face, 2, 2) of faces, in pixels: left and top, right and bottom."""
    shrink = min(_LONGER_SIDE_PX / max(picture.shape[:2]), 1.0)
    small = cv2.resize(picture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    found = _detector()(small)
    boxes = [(each.left(), each.top(), each.right(), each.bottom()) for each in found]
    return np.array(boxes, float).reshape(-1, 2, 2) / shrink


def _find_points(picture: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The landmarks (68, 2) of the face in dlib's box (2, 2), in pixels."""
    import dlib

    # Not averaged over several boxes: that meets the given points better, but changed three of
    # eight decisions of a linear model that had been trained on such points.
    corners = np.round(box).astype(int).ravel()
    shape = _predictor()(picture, dlib.rectangle(*corners.tolist()))
    return np.array([(point.x, point.y) for point in shape.parts()], float)


@cache
def _detector() -> Any:
    import dlib  # an optional extra, so imported where it is used

    return dlib.get_frontal_face_detector()


@cache
def _predictor() -> Any:
    import dlib

    spec = find_spec("face_recognition_models")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return dlib.shape_predictor(str(Path(spec.submodule_search_locations[0]) / _WEIGHTS))
