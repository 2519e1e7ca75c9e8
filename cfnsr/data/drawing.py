"""Faces drawn from their 68 landmarks."""

import cv2
import numpy as np

from cfnsr.params import Preprocess

#: dlib's 68 points as strokes: (first, last, closed).
STROKES = (
    (0, 16, False),  # jaw
    (17, 21, False),  # brows
    (22, 26, False),
    (27, 30, False),  # nose: ridge, base
    (31, 35, False),
    (36, 41, True),  # eyes
    (42, 47, True),
    (48, 59, True),  # lips: outer, inner
    (60, 67, True),
)
_SUBPIXEL_BITS = 4


def draw_faces(points: np.ndarray, settings: Preprocess) -> np.ndarray:
    """Draw a clip's landmarks as white strokes on black.

    The box that fills the picture is that of the whole clip, so that head motion stays visible,
    or that of each frame, as the crops of a real video (`settings.drawing.box`).

    Args:
        points: (frame, 68, 2), in any unit.

    Returns:
        uint8 (frame, frame_size, frame_size, 1).
    """
    points, frame_size = points.astype(np.float32), settings.frame_size
    axes = (0, 1) if settings.drawing.box == "clip" else (1,)
    low, high = points.min(axis=axes, keepdims=True), points.max(axis=axes, keepdims=True)
    width_px = settings.drawing.line_width_px
    scale = (frame_size - 1 - 2 * width_px) / (high - low).max(axis=-1, keepdims=True)
    centred = (points - (low + high) / 2) * scale + (frame_size - 1) / 2
    fixed_point = np.round(centred * 2**_SUBPIXEL_BITS).astype(np.int32)
    pictures = np.zeros((len(points), frame_size, frame_size), np.uint8)
    for picture, face in zip(pictures, fixed_point, strict=True):
        for closed in (False, True):
            lines = [face[first : last + 1] for first, last, each in STROKES if each == closed]
            cv2.polylines(picture, lines, closed, 255, width_px, cv2.LINE_AA, _SUBPIXEL_BITS)
    return pictures[..., None]
