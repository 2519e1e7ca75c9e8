"""Frames and face crops (section 3.2)."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from cfnsr.data import segments
from cfnsr.data.landmarks import are_of_one_clip
from cfnsr.errors import InputError
from cfnsr.params import Preprocess

VideoPacket: TypeAlias = "av.Packet[av.VideoStream]"


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


def read_faces(
    path: Path, landmarks: np.ndarray, settings: Preprocess, duration_s: float | None = None
) -> np.ndarray:
    """The chosen frames of a video, each cropped to the box of its landmarks.

    Args:
        landmarks: (frame, 68, 2), pixels of the full frame, one entry a frame of the video.
        duration_s: see `choose_frames`.

    Returns:
        uint8 RGB (chosen frame, frame_size, frame_size, 3).

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
            wanted = choose_frames(min(len(order), len(landmarks)), settings, duration_s)
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
