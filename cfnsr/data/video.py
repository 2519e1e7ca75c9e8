"""Frames and face crops (section 3.2)."""

from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from cfnsr import InputError
from cfnsr.data import segments
from cfnsr.data.landmarks import are_of_one_clip
from cfnsr.data.media import Clip, Track, pictures
from cfnsr.params import Preprocess

#: Of RAVDESS's films and of the control the even spread is up to 0.04 s off, and it is what the
#: takes without a film have, too.
SPREAD_S = 0.1


def choose_frames(
    n_available: int, settings: Preprocess, duration_s: float | None = None
) -> np.ndarray:
    """Which frames of a clip to keep, `n_frames` indices in ascending order.

    `evenly_spaced` over the whole clip (the release; frames repeat where the clip has fewer),
    `consecutive` ones from the middle (the paper's text), or as many beside each of the clip's
    `segments`, see `cfnsr.data.segments`; for these alone the clip's duration is needed.

    >>> choose_frames(9, Preprocess(n_frames=3))
    array([0, 3, 6])

    Raises:
        InputError: fewer frames than `consecutive` or `segments` need.
    """
    n = settings.n_frames
    if settings.frame_choice == "segments":
        if duration_s is None:
            raise InputError("frame_choice: segments is for the rows of group hybrid alone")
        return segments.frames_beside(n_available, duration_s, settings)
    if settings.frame_choice == "evenly_spaced":
        return np.arange(n) * n_available // n
    if n_available < n:
        raise InputError(
            f"{n_available} frames, but {n} consecutive ones are asked for; lower "
            "preprocess.n_frames or use frame_choice: evenly_spaced"
        )
    return np.arange(n) + (n_available - n) // 2


def choose_shown(
    picture: Track | None,
    first: int,
    end: int,
    settings: Preprocess,
    duration_s: float | None = None,
) -> np.ndarray:
    """The same of the frames `first` to `end` of a film, by the time at which they are shown.

    So frames repeat where a film of variable rate has few. Without a film they are taken as even.
    """
    chosen = choose_frames(end - first, settings, duration_s)
    if picture is None:
        return first + chosen
    starts_s, end_s = picture.starts_s[first:end], picture.ends_s[first:end][-1]
    moments_s = starts_s[0] + (chosen + 0.5) * (end_s - starts_s[0]) / (end - first)
    return first + np.searchsorted(starts_s, moments_s, side="right") - 1


def landmark_times(n_landmarks: int, sound_s: float, picture: Track | None) -> np.ndarray:
    """The middle of each of a tracker's frames, seconds of the clip.

    Spread evenly over the sound, as where there is no film, unless that is more than `SPREAD_S`
    from when the film shows them.
    """
    even = (np.arange(n_landmarks) + 0.5) * sound_s / n_landmarks
    if picture is None:
        return even
    shown = (picture.starts_s + picture.ends_s) / 2
    n_both = min(len(shown), n_landmarks)
    if np.abs(shown[:n_both] - even[:n_both]).max() <= SPREAD_S:
        return even
    return np.interp(np.arange(n_landmarks), np.arange(len(shown)), shown)


def crop_faces(
    clip: Clip, landmarks: np.ndarray, settings: Preprocess, duration_s: float | None = None
) -> np.ndarray:
    """The chosen frames of a film, each cropped to the box of its landmarks.

    Args:
        landmarks: (frame, 68, 2), pixels of the full frame, one entry per frame of the film.

    Returns:
        uint8 RGB (chosen frame, frame_size, frame_size, 3).

    Raises:
        InputError: no film, undecodable, or its face is outside the frame.
    """
    picture = clip.need("picture")
    n_shown = len(picture.starts_s)
    if not are_of_one_clip(n_shown, len(landmarks)):
        raise InputError(
            f"{clip.path.name}: {n_shown} frames, but landmarks of {len(landmarks)}; "
            "do both belong to this take?"
        )
    wanted = choose_shown(picture, 0, min(n_shown, len(landmarks)), settings, duration_s)
    found = dict(faces(clip, wanted, landmarks, settings))
    return np.stack([found[i] for i in wanted])


def faces(
    clip: Clip, wanted: Iterable[int], points: np.ndarray, settings: Preprocess
) -> Iterator[tuple[int, np.ndarray]]:
    """Some frames of a film, in order: place and face, see `crop_face`.

    Args:
        points: (frame, point, 2), pixels, one entry per frame of the film.
    """
    for i, picture in pictures(clip, wanted):
        try:
            yield i, crop_face(picture, points[i], settings)
        except InputError as error:
            raise InputError(f"{clip.path.name}, frame {i + 1}: {error}") from None


def crop_face(picture: np.ndarray, points: np.ndarray, settings: Preprocess) -> np.ndarray:
    """Cut the box of the landmarks out of a picture and resize it to `frame_size`.

    Args:
        picture: uint8 (height, width, 3).
        points: (68, 2), pixels of that picture; half of their box or more lies within it, else
            an `InputError`.
    """
    height, width = picture.shape[:2]
    size = settings.frame_size
    left, top = np.floor(points.min(axis=0)).astype(int)
    right, bottom = np.ceil(points.max(axis=0)).astype(int)
    inside_x = slice(max(left, 0), min(right, width))
    inside_y = slice(max(top, 0), min(bottom, height))
    inside = max(inside_x.stop - inside_x.start, 0) * max(inside_y.stop - inside_y.start, 0)
    if inside == 0 or 2 * inside < (right - left) * (bottom - top):
        raise InputError(
            f"the face is outside the frame (landmarks span x {left} to {right}, y {top} to "
            f"{bottom} in a picture of {width} x {height}); do both belong to this take?"
        )
    if settings.crop == "squashed_first":
        picture = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
        inside_x = slice(inside_x.start * size // width, -(-inside_x.stop * size // width))
        inside_y = slice(inside_y.start * size // height, -(-inside_y.stop * size // height))
    face = picture[inside_y, inside_x]
    shrinks = face.shape[0] >= size and face.shape[1] >= size
    return cv2.resize(
        face, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )
