"""A film or sound file as FFmpeg reads it: its streams, and when each of their frames is there.

All times are seconds of the clip, which starts with the first frame that is shown or heard.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from cfnsr import InputError

Kind = Literal["picture", "sound"]

#: How long the next frame may be away before its stream counts as missing there.
GAP_S = 0.5
#: Longer than any break in a recording: such stamps are damaged, and silence would fill the memory.
LONGEST_GAP_S = 3600.0
#: By how much a whole file may be shorter than it says: encoders pad, writers miscount headers.
TOLERANCE_S = 0.1
TOLERANCE_BYTES = 1024
#: Programs that write a wav into a pipe announce 2 or 4 GB, or a few bytes less.
RIFF_UNKNOWN_BYTES = 0x7FFF_0000
#: FFmpeg's names of formats whose header says how long they are. Of most others it estimates the
#: duration, which announces nothing.
ANNOUNCING = ("flac", "matroska,webm")
_NO_FILM = Disposition.attached_pic | Disposition.timed_thumbnails
_REMEDY = "fetch or export it again"


@dataclass(frozen=True, eq=False)
class Track:
    """When one stream of a clip is there.

    `starts_s` and `ends_s` (frame,), ascending; `gaps` are the stretches without it; `places` tells
    a frame's place by its time stamp, None where stamps tell no order.
    """

    index: int
    starts_s: np.ndarray
    ends_s: np.ndarray
    gaps: tuple[tuple[float, float], ...]
    places: dict[int, int] | None

    def missing_share(self, start_s: float, end_s: float) -> float:
        """In how much of a stretch the stream is missing, 0 to 1."""
        overlaps = (min(end, end_s) - max(start, start_s) for start, end in self.gaps)
        return sum(max(overlap, 0.0) for overlap in overlaps) / (end_s - start_s)


@dataclass(frozen=True, eq=False)
class Clip:
    """A film or sound file: its first picture and sound stream that can be decoded.

    `start_s` its first frame on the file's own clock; `absent` says what is in place of a missing
    track; `packets` its coded frames, where they are kept in memory.
    """

    path: Path
    start_s: float
    duration_s: float
    tracks: dict[Kind, Track]
    absent: dict[Kind, str]
    warnings: tuple[str, ...]
    packets: list[Any] | None

    def need(self, kind: Kind) -> Track:
        """A track that must be there, else an `InputError` says what is in its place."""
        if kind not in self.tracks:
            raise InputError(f"{self.path.name} has {self.absent[kind]}; {_REMEDY}")
        return self.tracks[kind]

    @property
    def picture(self) -> Track | None:
        """When a film is shown; None of a file without one."""
        return self.tracks.get("picture")

    def frames(self, track: Track, wanted: Collection[int] | None = None) -> Iterator[Any]:
        """The decoded frames of a track, in order.

        Args:
            wanted: places of the frames that are needed; others that no frame refers to are left
                out. It may change on the way.

        Raises:
            InputError: undecodable, or damaged so that FFmpeg invents a part.
        """
        with nullcontext() if self.packets is not None else _container(self.path) as container:
            packets = self.packets
            if container is not None:
                packets = container.demux(container.streams[track.index])
            for packet in packets or ():
                if packet.stream_index != track.index:
                    continue
                codec = packet.stream.codec_context
                if wanted is not None and track.places is not None:
                    is_wanted = track.places.get(packet.pts) in wanted
                    codec.skip_frame = "DEFAULT" if is_wanted else "NONREF"
                # Where mp3 files were joined, the second one's tag is taken for a frame.
                if codec.name.startswith("mp3") and bytes(packet).startswith(b"ID3"):
                    continue
                for frame in packet.decode():
                    if frame.is_corrupt:
                        raise InputError(
                            f"{self.path.name} is damaged, and FFmpeg invents a part of it at "
                            f"{(frame.time or 0) - self.start_s:.2f} s; {_REMEDY}"
                        )
                    yield frame


@contextmanager
def opened(path: Path) -> Iterator[Clip]:
    """A short clip, read into memory: to open a film anew takes as long as to decode a tenth of it.

    Raises:
        InputError: undecodable or cut short.
    """
    with _container(path) as container:
        packets = list(container.demux())
        yield _survey(path, container, packets, packets)


def probe(path: Path) -> Clip:
    """A clip of any length, whose file is opened again for each look at it.

    Raises:
        InputError: undecodable or cut short.
    """
    with _container(path) as container:
        return _survey(path, container, container.demux(), None)


def pictures(clip: Clip, wanted: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
    """The wanted frames of a film, in order: place and uint8 RGB (height, width, 3), upright.

    Raises:
        InputError: no film, or damaged.
    """
    track = clip.need("picture")
    todo = set(wanted)
    # One for all frames, because preparing a conversion costs more than the conversion.
    converter = VideoReformatter()
    for n_before, frame in enumerate(clip.frames(track, todo) if todo else ()):
        place = n_before if track.places is None else track.places.get(frame.pts)
        if place in todo:
            todo.remove(place)
            with decoding(clip.path):
                picture = converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
            yield place, _upright(picture, frame)
        if not todo:
            return
    if todo:
        raise InputError(
            f"{clip.path.name} is damaged: frame {min(todo) + 1} of {len(track.starts_s)} cannot "
            f"be decoded; {_REMEDY}"
        )


def _upright(picture: np.ndarray, frame: Any) -> np.ndarray:
    """Turned and mirrored as the file asks players to: a telephone notes how it was held."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return picture
    # Column x, line y is shown at (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5]
    if abs(b) > abs(a):
        picture, a, d = picture.swapaxes(0, 1), c, b
    return np.ascontiguousarray(picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Around whatever FFmpeg does with a file or its frames; an `InputError` where it cannot."""
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{path.name} cannot be decoded ({error.strerror}); {_REMEDY}") from None


@contextmanager
def _container(path: Path) -> Iterator[Any]:
    # Else `2024-08-20T13:28:35Z.mp4` were an address. Titles may be in any encoding.
    with decoding(path), av.open(f"file:{path}", metadata_errors="replace") as container:
        for stream in container.streams.video:
            if stream.codec_context is not None:
                stream.thread_type = "NONE"  # clips are spread over processes, not threads
        yield container


def _survey(path: Path, container: Any, packets: Iterable[Any], kept: list[Any] | None) -> Clip:
    films = [stream for stream in container.streams.video if not stream.disposition & _NO_FILM]
    found: dict[Kind, list[Any]] = {"picture": films, "sound": list(container.streams.audio)}
    absent: dict[Kind, str] = {}
    warnings = []
    streams: dict[Kind, Any] = {}
    for kind, candidates in found.items():
        readable = [stream for stream in candidates if stream.codec_context is not None]
        if not readable:
            absent[kind] = f"no {kind} stream" + " that FFmpeg can decode" * bool(candidates)
            continue
        absent[kind] = f"an empty {kind} stream"
        streams[kind] = readable[0]
        if n_before := candidates.index(readable[0]):
            warnings.append(
                f"FFmpeg cannot decode {kind} track 1, so track {n_before + 1} is taken instead"
            )

    coded: dict[Kind, list[tuple[int | None, int | None, int]]] = {kind: [] for kind in streams}
    kinds = {stream.index: kind for kind, stream in streams.items()}
    last_s = 0.0
    for packet in packets:
        if not packet.size:
            continue
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is not None:
            last_s = max(last_s, float((stamp + packet.duration) * packet.time_base))
        # An edit list may end before the last packet does: what it cuts off is no part of the clip.
        of = kinds.get(packet.stream_index)
        if of and not packet.is_discard and not (of == "picture" and packet.is_corrupt):
            coded[of].append((packet.pts, packet.dts, packet.duration))
    if _is_cut(path, container, last_s):
        raise InputError(f"{path.name} is cut short: it ends before its header says; {_REMEDY}")

    spans = {
        kind: _spans(path.name, streams[kind], stamps) for kind, stamps in coded.items() if stamps
    }
    start_s = min((starts[0] for starts, _ in spans.values()), default=0.0)
    duration_s = max((ends.max() for _, ends in spans.values()), default=0.0) - start_s
    tracks: dict[Kind, Track] = {}
    for kind, (starts, ends) in spans.items():
        gaps = _gaps(starts - start_s, ends - start_s, duration_s)
        longest_s = max((end - start for start, end in gaps), default=0.0)
        if longest_s > LONGEST_GAP_S:
            raise InputError(
                f"{path.name} has time stamps that jump by {longest_s / 3600:.0f} hours; {_REMEDY}"
            )
        pts = sorted({pts for pts, _, _ in coded[kind] if pts is not None})
        places = {each: i for i, each in enumerate(pts)} if len(pts) == len(starts) else None
        index = streams[kind].index
        tracks[kind] = Track(index, starts - start_s, ends - start_s, gaps, places)
    return Clip(path, start_s, duration_s, tracks, absent, tuple(warnings), kept)


def _spans(
    name: str, stream: Any, coded: list[tuple[int | None, int | None, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """When each frame starts and ends, seconds of the file's clock, in the order they are shown."""
    pts, dts, durations = zip(*coded, strict=True)
    unit_s = float(stream.time_base)
    if None not in pts or None not in dts:
        # An avi has no pts where frames are coded in another order, but the same moments.
        stamps = np.array(dts if None in pts else pts) * unit_s
    elif stream.type == "audio":  # FFmpeg counts samples where a bare stream has no stamps
        raise InputError(f"{name} has sound that is at no time; {_REMEDY}")
    else:  # a bare stream
        stamps = np.arange(len(coded)) / float(stream.guessed_rate or stream.average_rate or 25)
    order = np.argsort(stamps, kind="stable")
    starts, lengths = stamps[order], np.array(durations)[order] * unit_s
    if stream.type == "audio" and stream.start_time is not None:
        starts = np.maximum(starts, stream.start_time * unit_s)  # before it a decoder warms up
    # A container may let a frame last until the next one, wherever that is.
    step_s = np.median(np.diff(starts)) if len(starts) > 1 else lengths[0]
    if stream.type == "audio" and lengths[0] > 1.5 * step_s > lengths[1:].max(initial=0):
        starts[0] = starts[1] - step_s  # FFmpeg stretches the first, where it writes fragments
    return starts, starts + np.where((lengths > 0) & (lengths < step_s), lengths, step_s)


def _gaps(
    starts: np.ndarray, ends: np.ndarray, duration_s: float
) -> tuple[tuple[float, float], ...]:
    """The stretches of a clip in which a stream is missing for longer than `GAP_S`."""
    before = np.insert(np.maximum.accumulate(ends), 0, 0.0)
    after = np.append(starts, duration_s)
    missing = np.flatnonzero(after - before > GAP_S)
    return tuple((float(before[i]), float(after[i])) for i in missing)


def _is_cut(path: Path, container: Any, last_s: float) -> bool:
    """Whether the end of a file is missing, as far as its header tells."""
    name, n_bytes = container.format.name, path.stat().st_size
    if name in ANNOUNCING:
        return last_s + TOLERANCE_S < (container.duration or 0) / av.time_base
    with path.open("rb") as file:
        header = file.read(8)
        if header[:4] == b"RIFF":  # a wav or avi, which FFmpeg reads as far as it goes
            n_announced = int.from_bytes(header[4:], "little")
            return n_bytes + TOLERANCE_BYTES < n_announced < RIFF_UNKNOWN_BYTES
        if name == "mp3":
            return n_bytes + TOLERANCE_BYTES < _end_of_mp3(file)
        if name.startswith("mov") and _ends_in_a_box(file, n_bytes):
            return True
    # An index that comes first says where each frame lies.
    entries = (entry for stream in container.streams for entry in stream.index_entries)
    return any(entry.pos + entry.size > n_bytes for entry in entries)


def _end_of_mp3(file: BinaryIO) -> int:
    """At which byte an mp3 ends by the Xing or Info header in its first frame; 0 without one."""
    file.seek(0)
    tag = file.read(10)
    # Before the frames there may be an ID3 tag, whose size has seven bits per byte.
    start = 10 + sum(tag[6 + i] << (21 - 7 * i) for i in range(4)) if tag[:3] == b"ID3" else 0
    file.seek(start)
    frame = file.read(64)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    said = int.from_bytes(frame[at + 4 : at + 8])
    if at < 0 or not said & 2:
        return 0
    at += 12 if said & 1 else 8  # the number of frames comes first
    return start + int.from_bytes(frame[at : at + 4])


def _ends_in_a_box(file: BinaryIO, n_bytes: int) -> bool:
    """Whether an mp4 is over before one of the boxes that it consists of."""
    start, kind = 0, b""
    while start < n_bytes:
        file.seek(start)
        header = file.read(16)
        size, kind = int.from_bytes(header[:4]), header[4:8]
        if size == 1:
            size = int.from_bytes(header[8:])
        if size < 8:  # up to the end of the file, or no box
            return False
        start += size
    return start > n_bytes and kind in (b"moov", b"moof", b"mdat")
