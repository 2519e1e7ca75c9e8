"""A drawn, moving face: 68 landmarks from an expression, and a picture painted over them.

Lengths are in face units (half the width of the face; x to the right, y down, origin between the
ears) until `place` puts them into a frame.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Colour = tuple[int, int, int]

FRAME_WIDTH, FRAME_HEIGHT = 192, 144
#: Which of dlib's 68 points carry the emotion.
CUE_LANDMARKS = {"brows": range(17, 27), "eyes": range(36, 48), "mouth": range(48, 68)}
_JAW, _LEFT_BROW, _RIGHT_BROW = slice(0, 17), slice(17, 22), slice(22, 27)
_BRIDGE, _NOSTRILS = slice(27, 31), slice(31, 36)
_OUTER_LIPS, _INNER_LIPS = slice(48, 60), slice(60, 68)
_EYES = (slice(36, 42), slice(42, 48))

_SKINS = ((244, 208, 177), (232, 190, 152), (214, 164, 124), (180, 128, 92), (140, 94, 66))
_HAIRS = ((48, 34, 28), (92, 60, 36), (150, 108, 60), (70, 44, 40), (122, 120, 118))
_BACKGROUNDS = ((168, 190, 204), (196, 206, 188), (210, 200, 184), (186, 182, 204), (150, 168, 160))
_SHIRTS = ((60, 84, 128), (120, 60, 64), (66, 110, 84), (90, 80, 110), (70, 74, 80))
_IRISES = ((70, 48, 32), (60, 90, 120), (70, 100, 70))
_SUBPIXEL_BITS = 4


class Expression(NamedTuple):
    """How the face is moved: one value each, or one a frame.

    The brows' inner and outer ends rise; the eyes open by a factor; the mouth changes width by a
    factor, opens, lifts its corners, and hangs to one side.
    """

    brow_inner: float | Array
    brow_outer: float | Array
    eyes: float | Array
    mouth_width: float | Array
    mouth_open: float | Array
    mouth_corners: float | Array
    mouth_tilt: float | Array


#: By emotion, whichever corpora have it.
EXPRESSIONS = {
    "neutral": Expression(0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0),
    "calm": Expression(0.05, -0.05, 0.15, 0.9, 0.0, 0.12, 0.0),
    "happy": Expression(0.1, 0.1, 0.7, 1.3, 0.2, 0.34, 0.0),
    "sad": Expression(0.22, -0.2, 0.6, 0.85, 0.0, -0.28, 0.0),
    "angry": Expression(-0.24, 0.12, 0.85, 1.15, 0.16, -0.16, 0.0),
    "fearful": Expression(0.3, 0.06, 1.6, 1.35, 0.22, -0.22, 0.0),
    "disgust": Expression(-0.16, -0.1, 0.45, 0.8, 0.06, -0.1, 0.2),
    "surprised": Expression(0.26, 0.3, 1.7, 0.6, 0.5, 0.0, 0.0),
}
#: The inner and outer brows and the eyes where these alone show an emotion: three slopes by three
#: openings, apart enough to be told from each other in a crop of 40 pixels.
_UPPER = {
    "neutral": (0.0, 0.0, 1.0),
    "calm": (0.0, 0.0, 0.1),
    "happy": (0.3, -0.1, 0.1),
    "sad": (0.3, -0.1, 1.0),
    "angry": (-0.18, 0.08, 1.0),
    "fearful": (0.0, 0.0, 2.2),
    "disgust": (-0.18, 0.08, 0.1),
    "surprised": (0.3, -0.1, 2.2),
}


def composed(upper: str, lower: str) -> Expression:
    """The brows and eyes of one emotion over the mouth of another."""
    brow_inner, brow_outer, eyes = _UPPER[upper]
    mouth = EXPRESSIONS[lower]
    return mouth._replace(brow_inner=brow_inner, brow_outer=brow_outer, eyes=eyes)


class Look:
    """What stays the same in all takes of an actor: colours, proportions, place in the frame."""

    def __init__(self, rng: np.random.Generator, long_hair: bool) -> None:
        """A new actor."""

        def one_of(palette: tuple[Colour, ...]) -> Colour:
            return palette[rng.integers(len(palette))]

        self.skin = one_of(_SKINS)
        self.hair = one_of(_HAIRS)
        self.background = one_of(_BACKGROUNDS)
        self.shirt = one_of(_SHIRTS)
        self.iris = one_of(_IRISES)
        self.long_hair = long_hair
        self.scale_px = rng.uniform(33, 39)
        self.centre_px = (rng.uniform(78, 114), rng.uniform(62, 72))
        self.face_length = rng.uniform(1.1, 1.25)
        self.brow_height = rng.uniform(0.46, 0.54)
        self.eye_distance = rng.uniform(0.4, 0.46)
        self.eye_size = rng.uniform(0.9, 1.1)
        self.nose_length = rng.uniform(0.3, 0.38)
        self.mouth_height = rng.uniform(0.6, 0.68)
        self.mouth_width = rng.uniform(0.33, 0.4)


def landmarks(look: Look, expression: Expression) -> Array:
    """The 68 points in dlib's order, in face units: (n_frames, 68, 2)."""
    parts = (_jaw, _brows, _nose, _eyes, _mouth)
    return np.concatenate([part(look, expression) for part in parts], axis=1)


def place(points: Array, look: Look, pose: Array) -> Array:
    """Face units to pixels of the frame; `points` has shape (n_points, 2).

    Args:
        pose: where the head is: x and y in pixels, and radians clockwise.
    """
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    return look.scale_px * points @ np.array([[cos, sin], [-sin, cos]]) + pose[:2]


def paint(look: Look, points: Array, pose: Array) -> NDArray[np.uint8]:
    """One RGB frame, shape (FRAME_HEIGHT, FRAME_WIDTH, 3), from 68 landmarks in face units."""
    image = np.empty((FRAME_HEIGHT, FRAME_WIDTH, 3), np.uint8)
    image[:] = look.background

    def fixed(points: Array) -> NDArray[np.int32]:
        return np.rint(place(points, look, pose) * (1 << _SUBPIXEL_BITS)).astype(np.int32)

    def fill(points: Array, colour: Colour) -> None:
        cv2.fillPoly(image, [fixed(points)], colour, cv2.LINE_AA, _SUBPIXEL_BITS)

    def line(points: Array, colour: Colour, width_px: int) -> None:
        lines = [fixed(points)]
        cv2.polylines(image, lines, False, colour, width_px, cv2.LINE_AA, _SUBPIXEL_BITS)

    lips, brow = _shade(look.skin, 0.72, red=24), _shade(look.hair, 0.75)
    fill(_ellipse(0, 2.6, 1.9, 1.2), look.shirt)
    if look.long_hair:
        fill(_ellipse(0, 0.35, 1.28, 1.55), look.hair)
    fill(_ellipse(0, 1.1, 0.5, 0.8), _shade(look.skin, 0.85))
    fill(_ellipse(0, -0.25, 1.12, 1.05), look.hair)
    fill(np.concatenate([points[_JAW], _FOREHEAD]), look.skin)
    for eyebrow in (_LEFT_BROW, _RIGHT_BROW):
        line(points[eyebrow], brow, 3)
    for eye in (points[part] for part in _EYES):
        fill(eye, (250, 248, 244))
        radius = 0.1 * look.eye_size
        x, y = eye.mean(0)
        fill(_ellipse(x, y, radius, min(radius, np.ptp(eye[:, 1]) / 2)), look.iris)
        line(eye[:4], _shade(look.hair, 0.6), 1)
    for part in (_BRIDGE, _NOSTRILS):
        line(points[part], _shade(look.skin, 0.78), 1)
    fill(points[_OUTER_LIPS], lips)
    fill(points[_INNER_LIPS], (70, 24, 28))
    return image


def _shade(colour: Colour, factor: float, red: int = 0) -> Colour:
    r, g, b = (int(factor * channel) for channel in colour)
    return min(r + red, 255), g, b


_CIRCLE = np.stack([f(np.linspace(0, 2 * np.pi, 25)[:-1]) for f in (np.cos, np.sin)], axis=-1)


def _ellipse(x: float, y: float, half_width: float, half_height: float) -> Array:
    return _CIRCLE * (half_width, half_height) + (x, y)


#: From the right ear over the top of the head to the left one; closes the jaw line.
_FOREHEAD = _ellipse(0, 0, 1, 0.85)[12:][::-1]


def _points(x: Array | float, y: Array) -> Array:
    """Stack coordinates that broadcast to (n_frames, n_points)."""
    return np.stack(np.broadcast_arrays(x, y), axis=-1).astype(np.float64)


def _column(value: float | Array) -> Array:
    """Shape (n_frames, 1), to broadcast against points."""
    return np.reshape(value, (-1, 1))


def _jaw(look: Look, expression: Expression) -> Array:
    angle = np.linspace(0, np.pi, 17)
    length = look.face_length + 0.35 * _column(expression.mouth_open)
    return _points(-np.cos(angle), length * np.sin(angle) ** 0.9)


def _brows(look: Look, expression: Expression) -> Array:
    inward = np.linspace(0, 1, 5)  # 0 at the temple, 1 beside the nose
    rise = _column(expression.brow_outer) * (1 - inward) + _column(expression.brow_inner) * inward
    left_y = -look.brow_height - 0.06 * np.sin(np.pi * inward) - rise
    left_x = look.eye_distance * (inward * -1.3 + 1.8)
    left, right = _points(-left_x, left_y), _points(left_x[::-1], left_y[:, ::-1])
    return np.concatenate([left, right], axis=1)


def _nose(look: Look, expression: Expression) -> Array:
    n_frames = len(_column(expression.eyes))
    bridge = np.stack([np.zeros(4), np.linspace(-0.15, look.nose_length - 0.1, 4)], axis=-1)
    nostrils = np.stack([np.linspace(-0.16, 0.16, 5), np.full(5, look.nose_length)], axis=-1)
    nostrils[2, 1] += 0.04
    return np.tile(np.concatenate([bridge, nostrils]), (n_frames, 1, 1))


def _eyes(look: Look, expression: Expression) -> Array:
    x = 0.2 * look.eye_size * np.array([-1, -0.4, 0.4, 1, 0.4, -0.4])
    y = 0.1 * look.eye_size * np.array([0, -1, -1, 0, 1, 1]) * _column(expression.eyes) - 0.2
    sides = [_points(centre + x, y) for centre in (-look.eye_distance, look.eye_distance)]
    return np.concatenate(sides, axis=1)


def _mouth(look: Look, expression: Expression) -> Array:
    top = np.linspace(-1, 1, 7)
    inner_top = np.linspace(-0.85, 0.85, 5)
    across = np.concatenate([top, top[-2:0:-1], inner_top, inner_top[-2:0:-1]])
    side = np.concatenate([np.full(7, -1), np.full(5, 1), np.full(5, -1), np.full(3, 1)])
    lip = np.concatenate([np.full(12, 0.09), np.zeros(8)])
    half_span = np.concatenate([np.ones(12), np.full(8, 0.85)])
    opening = _column(expression.mouth_open)
    bulge = np.sqrt(1 - (across / half_span) ** 2)
    lifted = _column(expression.mouth_corners) * (across**2 - 0.4)
    hanging = _column(expression.mouth_tilt) * across
    centre = look.mouth_height + 0.25 * opening
    y = centre + side * (lip + opening / 2) * bulge - lifted + hanging
    return _points(look.mouth_width * _column(expression.mouth_width) * across, y)
