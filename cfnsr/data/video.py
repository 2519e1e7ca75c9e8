"""Frames, landmarks and face crops (section 3.2)."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import av
import cv2
import numpy as np
import pandas as pd
from av.video.reformatter import VideoReformatter

from cfnsr.errors import InputError
from cfnsr.params import Preprocess

N_LANDMARKS = 68
#: By how much landmarks may end before the sound; of RAVDESS's 1440 takes, one does by 0.33 s.
LANDMARK_TOLERANCE_S = 0.5
VideoPacket: TypeAlias = "av.Packet[av.VideoStream]"
_COLUMNS = [f"{axis}_{i}" for axis in "xy" for i in range(N_LANDMARKS)]
_READ = frozenset(_COLUMNS)
_FETCH = "fetch them again"


def choose_frames(n_available: int, settings: Preprocess) -> np.ndarray:
    """Which frames of a clip to keep, `n_frames` indices in ascending order.

    `evenly_spaced` over the whole clip (the release; frames repeat where the clip has fewer), or
    `consecutive` ones from the middle (the paper's text).

    >>> choose_frames(9, Preprocess(n_frames=3))
    array([0, 3, 6])

    Raises:
        InputError: fewer frames than `consecutive` needs.
    """
    n = settings.n_frames
    if settings.frame_choice == "evenly_spaced":
        return np.arange(n) * n_available // n
    if n_available < n:
        raise InputError(
            f"{n_available} frames, but {n} consecutive ones are asked for; lower "
            "preprocess.n_frames or use frame_choice: evenly_spaced"
        )
    return np.arange(n) + (n_available - n) // 2


def read_landmarks(path: Path, remedy: str = _FETCH) -> np.ndarray:
    """68 facial landmarks a frame from a csv named and written as OpenFace does.

    Args:
        remedy: what an error tells the user to do.

    Returns:
        float64 (frame, 68, 2), x and y in pixels of the full frame.

    Raises:
        InputError: missing, empty, without the columns x_0..x_67, y_0..y_67, not finite, or
            all in one place, as a tracker that lost the face writes them.
    """
    try:
        # Some releases write a blank after each comma. A comma at the end of the lines must not
        # shift the columns, as pandas would have it.
        table = pd.read_csv(
            path, skipinitialspace=True, index_col=False, usecols=_READ.__contains__
        )
    except FileNotFoundError:
        raise InputError(f"landmarks {path.name} are missing; fetch the landmark archive") from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError):
        raise InputError(f"landmarks {path.name} are empty or no csv; {remedy}") from None
    missing = sorted(set(_COLUMNS) - set(table.columns))
    if missing or table.empty:
        what = f"lack column {missing[0]}" if missing else "have no frame"
        raise InputError(f"landmarks {path.name} {what}; {remedy}")
    table = table[_COLUMNS]
    if not all(dtype.kind in "iuf" for dtype in table.dtypes):
        table = table.apply(pd.to_numeric, errors="coerce")
    points = table.to_numpy(float).reshape(-1, 2, N_LANDMARKS).swapaxes(1, 2)
    infinite = ~np.isfinite(points).all(axis=(1, 2))
    _reject_frames(path.name, "are not finite numbers", infinite, remedy)
    lost = (np.ptp(points, axis=1) == 0).any(axis=1)
    _reject_frames(path.name, "have no extent, so the tracker lost the face,", lost, remedy)
    return points


def check_duration(path: Path, sound_s: float, remedy: str = _FETCH) -> None:
    """Whether landmarks reach to the end of the sound, by their time stamps.

    Raises:
        InputError: they end before, as a file that was cut at the end of a line.
    """
    stamps = pd.read_csv(
        path, skipinitialspace=True, index_col=False, usecols=lambda name: name == "timestamp"
    )
    if stamps.empty:
        raise InputError(f"landmarks {path.name} lack column timestamp; {remedy}")
    last_s = float(pd.to_numeric(stamps["timestamp"], errors="coerce").max())
    if not last_s > sound_s - LANDMARK_TOLERANCE_S:
        raise InputError(
            f"landmarks {path.name} end at {last_s:.2f} s, but the sound at {sound_s:.2f} s; "
            f"{remedy}"
        )


def _reject_frames(name: str, what: str, bad: np.ndarray, remedy: str) -> None:
    if bad.any():
        raise InputError(
            f"landmarks {name} {what} in {bad.sum()} of {len(bad)} frames, first in frame "
            f"{bad.argmax() + 1}; {remedy}"
        )


def read_faces(path: Path, landmarks: np.ndarray, settings: Preprocess) -> np.ndarray:
    """The chosen frames of a video, each cropped to the box of its landmarks.

    Args:
        landmarks: (frame, 68, 2), pixels of the full frame, one entry a frame of the video.

    Returns:
        uint8 RGB (n_frames, frame_size, frame_size, 3).

    Raises:
        InputError: undecodable, cut short, or its face is outside the frame.
    """
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise InputError("no picture stream; fetch the file again")
            stream = container.streams.video[0]
            stream.thread_type = "NONE"  # clips are spread over processes, not threads
            packets = list(container.demux(stream))
            times = times_shown(packets, stream.frames)
            order = {pts: place for place, pts in enumerate(times)}
            if not are_of_one_clip(len(order), len(landmarks)):
                raise InputError(
                    f"{len(order)} frames, but landmarks of {len(landmarks)}; "
                    "do both belong to this take?"
                )
            wanted = choose_frames(min(len(order), len(landmarks)), settings)
            faces = dict(_decode_faces(packets, order, set(wanted), stream, landmarks, settings))
    except (av.FFmpegError, OSError) as error:
        raise InputError(
            f"{path.name} cannot be decoded ({error.strerror}); fetch the file again"
        ) from None
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from None
    if missing := set(wanted) - set(faces):
        raise InputError(
            f"{path.name} is damaged: frame {min(missing) + 1} of {len(order)} cannot be decoded; "
            "fetch the file again"
        )
    return np.stack([faces[i] for i in wanted])


def are_of_one_clip(n_frames: int, n_landmarks: int) -> bool:
    """Whether so many frames and landmarks can belong together.

    The tracker may lose a frame or two at an end; more means that they are of another clip.
    """
    return abs(n_frames - n_landmarks) <= 3


def times_shown(packets: Iterable[VideoPacket], n_announced: int) -> list[int]:
    """The time stamp of each frame of a clip, in the order in which they are shown.

    An edit list may end before the last packet does; what it cuts off is no frame of the clip.

    Raises:
        InputError: fewer frames than the file announces.
    """
    there = [
        (packet.pts or 0, packet.is_discard)
        for packet in packets
        if packet.size and not packet.is_corrupt
    ]
    if len(there) < n_announced:
        raise InputError(
            f"only {len(there)} of its {n_announced} frames are there, so it is cut short; "
            "fetch or export it again"
        )
    return sorted(pts for pts, is_cut_off in there if not is_cut_off)


def _decode_faces(
    packets: list[VideoPacket],
    order: dict[int, int],
    wanted: set[int],
    stream: av.VideoStream,
    landmarks: np.ndarray,
    settings: Preprocess,
) -> Iterator[tuple[int, np.ndarray]]:
    """The wanted frames' faces, with their place in the clip."""
    # One for all frames, because preparing a conversion costs more than the conversion.
    converter = VideoReformatter()
    todo = set(wanted)
    for packet in packets:
        # A frame that no other refers to is decoded only if it is wanted.
        is_wanted = order.get(packet.pts or 0) in wanted
        stream.codec_context.skip_frame = "DEFAULT" if is_wanted else "NONREF"
        for frame in packet.decode():
            place = order.get(frame.pts or 0)
            if place in todo:
                todo.remove(place)
                picture = converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
                yield place, crop_face(picture, landmarks[place], settings)
        if not todo:
            break


def crop_face(picture: np.ndarray, points: np.ndarray, settings: Preprocess) -> np.ndarray:
    """Cut the box of the landmarks out of a picture and resize it to `frame_size`.

    Args:
        picture: uint8 (height, width, 3).
        points: (68, 2), pixels of that picture.

    Raises:
        InputError: more than half of the box lies outside the picture.
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
