"""A clip of one's own, of any name and length, to arrays like those of the training clips.

A clip as long as RAVDESS's is one window, as in training. A longer one is looked at through a
sliding window of the length of an average take, so that each window holds what the network knows:
`duration_s` of sound with a little before and after it, and frames spaced over all of it.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from cfnsr.data import audio, preprocess, video
from cfnsr.data.landmarks import are_of_one_clip, check_duration, read_landmarks
from cfnsr.errors import InputError
from cfnsr.own_clip import face_detection, landmark_detection
from cfnsr.params import Preprocess

#: What follows the analysed sound in RAVDESS's 1440 takes: 0.75 s on average (they last 3.70 s),
#: 2.33 s in the longest (5.27 s).
TAIL_S, LONGEST_TAIL_S = 0.75, 2.33
HOP_S = 1.0
#: How long a user waits without a sign of progress.
PATIENCE_S = 5.0


@dataclass(frozen=True)
class Window:
    """A stretch of a clip that is classified as one."""

    start_s: float
    end_s: float


def windows(duration_s: float, settings: Preprocess) -> list[Window]:
    """The windows of a clip: all of it, or stretches of equal length that start a second apart.

    The last one ends with the clip. It starts half a second to one and a half after the one before:
    nearly the same stretch twice would have a double weight in the mean.

    >>> [window.start_s for window in windows(6.2, Preprocess())]
    [0.0, 1.0, 2.0, 2.5]
    >>> [window.start_s for window in windows(6.0, Preprocess())]
    [0.0, 1.0, 2.3]
    """
    analysed_s = settings.offset_s + settings.duration_s
    if duration_s <= analysed_s + LONGEST_TAIL_S:
        return [Window(0.0, duration_s)]
    last_s = duration_s - analysed_s - TAIL_S
    starts = [
        start for start in np.arange(0, last_s, HOP_S).tolist() if last_s - start >= HOP_S / 2
    ]
    return [Window(start, start + analysed_s + TAIL_S) for start in (*starts, last_s)]


@dataclass(frozen=True)
class Needs:
    """What a trained network looks at and listens to."""

    video: bool
    sound: bool
    draws_landmarks: bool = False
    tracks: bool = False

    @property
    def landmarks(self) -> bool:
        """Whether the 68 points are needed, and not only where the face is."""
        return (self.video and self.draws_landmarks) or self.tracks


@dataclass(frozen=True, eq=False)
class OwnClip:
    """An opened clip.

    `points` (frame, point, 2), pixels: 68 landmarks, or the two corners of a found face, whose
    box is all that a crop needs; None where nobody looks. `waveform` at the settings' rate.
    """

    path: Path
    settings: Preprocess
    needs: Needs
    duration_s: float
    n_frames: int
    points: np.ndarray | None
    waveform: np.ndarray | None
    warnings: tuple[str, ...] = ()

    @property
    def windows(self) -> list[Window]:
        return windows(self.duration_s, self.settings)

    def arrays(self) -> Iterator[dict[str, np.ndarray]]:
        """Each window's arrays, named and made as `cfnsr.data.preprocess` does, in order of time.

        Raises:
            InputError: the file is cut short, or the face leaves the frame.
        """
        spans = [self._span(window) for window in self.windows]
        chosen = [first + video.choose_frames(n, self.settings) for first, n in spans]
        cropped = self._crops(chosen) if self._crops_faces else iter(())
        for window, (first, n), frames in zip(self.windows, spans, chosen, strict=True):
            arrays = self._sound(window) if self.needs.sound else {}
            if self._crops_faces:
                arrays["frames"] = next(cropped)
            elif self.points is not None:
                arrays["frames"] = preprocess.drawn(self.points[frames], self.settings)
            if self.needs.tracks and self.points is not None:
                points, duration_s = self.points[first : first + n], window.end_s - window.start_s
                arrays |= preprocess.track_arrays(points, duration_s, self.settings)
            yield arrays

    @property
    def _crops_faces(self) -> bool:
        return self.needs.video and not self.needs.draws_landmarks

    def _span(self, window: Window) -> tuple[int, int]:
        """A window's first frame and number of frames."""
        rate_hz = self.n_frames / self.duration_s
        first = round(window.start_s * rate_hz)
        return first, max(min(round(window.end_s * rate_hz), self.n_frames) - first, 1)

    def _sound(self, window: Window) -> dict[str, np.ndarray]:
        assert self.waveform is not None
        start_s = window.start_s + self.settings.offset_s
        analysed = audio.cut_resampled(self.waveform, start_s, self.settings)
        return preprocess.sound_arrays(analysed, self.settings)

    def _crops(self, chosen: list[np.ndarray]) -> Iterator[np.ndarray]:
        """Each window's faces in one pass; only those of the windows under way are kept."""
        assert self.points is not None
        wanted = {int(i) for frames in chosen for i in frames}
        faces: dict[int, np.ndarray] = {}
        ahead = pictures(self.path, wanted)
        for frames in chosen:
            while frames[-1] not in faces:
                try:
                    i, picture = next(ahead)
                except StopIteration:
                    raise InputError(
                        f"{self.path.name} is cut short: frame {frames[-1] + 1} of "
                        f"{self.n_frames} cannot be decoded; export it again"
                    ) from None
                try:
                    faces[i] = video.crop_face(picture, self.points[i], self.settings)
                except InputError as error:
                    raise InputError(f"{self.path.name}, frame {i + 1}: {error}") from None
            yield np.stack([faces[i] for i in frames])
            faces = {i: face for i, face in faces.items() if i >= frames[0]}


def open_clip(path: Path, landmarks: Path | None, settings: Preprocess, needs: Needs) -> OwnClip:
    """Open a clip and find its face, unless its landmarks are given.

    Raises:
        InputError: no such file, no picture or sound where one is needed, too short, landmarks
            missing or of another clip.
    """
    if not path.is_file():
        raise InputError(f"{path} is no file; give the path of a video")
    if needs.landmarks and landmarks is None and not landmark_detection.is_installed():
        raise InputError(
            "this network was trained on 68 facial landmarks: give their csv, as OpenFace writes "
            "it, with --landmarks, install what finds them with pip install -e '.[landmarks]', or "
            "choose another --run"
        )
    otherwise = "" if needs.landmarks else ", or leave --landmarks out"
    if landmarks is not None and not landmarks.is_file():
        raise InputError(
            f"{landmarks} is no file; give OpenFace's 68 points of this clip{otherwise}"
        )
    n_frames, picture_s = _probe(path, needs)
    waveform, sound_s = _whole_sound(path, settings) if needs.sound else (None, picture_s)
    points: np.ndarray | None = None
    warnings: tuple[str, ...] = ()
    if landmarks is not None and (needs.video or needs.tracks):
        remedy = "export them again with OpenFace" + otherwise
        points = read_landmarks(landmarks, remedy)
        if not n_frames:
            check_duration(landmarks, sound_s, remedy)
        elif not are_of_one_clip(n_frames, len(points)):
            raise InputError(
                f"{path.name} has {n_frames} frames, but {landmarks.name} has {len(points)}; "
                "do both belong to this clip?"
            )
        n_frames = min(n_frames or len(points), len(points))
    elif needs.landmarks:
        points, warnings = _find_landmarks(path, n_frames)
    elif needs.video:
        wanted = face_detection.looked_at(n_frames)
        shown = tqdm(pictures(path, wanted), "look for the face", len(wanted), delay=PATIENCE_S)
        points, warnings = face_detection.track(shown, n_frames)
    return OwnClip(
        path, settings, needs, picture_s or sound_s, n_frames, points, waveform, warnings
    )


def _find_landmarks(path: Path, n_frames: int) -> tuple[np.ndarray, tuple[str, ...]]:
    def shown(wanted: Collection[int]) -> Iterable[tuple[int, np.ndarray]]:
        return tqdm(pictures(path, wanted), "find landmarks", len(wanted), delay=PATIENCE_S)

    if not n_frames:
        raise InputError(f"{path.name}: it has no picture; give --landmarks")
    try:
        return landmark_detection.find_landmarks(shown, n_frames)
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from None


def pictures(path: Path, wanted: Collection[int]) -> Iterator[tuple[int, np.ndarray]]:
    """The wanted frames of a video, upright: position and uint8 RGB (height, width, 3)."""
    if not wanted:
        return
    last = max(wanted)
    try:
        with av.open(path) as container:
            for i, frame in enumerate(container.decode(container.streams.video[0])):
                if i in wanted:
                    # A telephone films lying down and notes how it was held.
                    upright = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                    yield i, np.ascontiguousarray(upright)
                if i == last:
                    return
    except (av.FFmpegError, OSError) as error:
        raise _undecodable(path, error) from None


def _probe(path: Path, needs: Needs) -> tuple[int, float]:
    """The number of frames and how long they last; 0 and 0 for a file without a picture."""
    crops = needs.video and not needs.draws_landmarks
    try:
        with av.open(path) as container:
            if needs.sound and not container.streams.audio:
                raise InputError("it has no sound, and this network listens")
            if not container.streams.video:
                if crops:
                    raise InputError("it has no picture, and this network looks at faces")
                return 0, 0.0
            stream = container.streams.video[0]
            rate_hz = float(stream.average_rate or stream.guessed_rate or 0)
            n_frames = len(video.times_shown(container.demux(stream), stream.frames))
            if not n_frames or not rate_hz:
                raise InputError("its picture stream is empty; export it again")
            return n_frames, n_frames / rate_hz
    except (av.FFmpegError, OSError) as error:
        raise _undecodable(path, error) from None
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from None


def _whole_sound(path: Path, settings: Preprocess) -> tuple[np.ndarray, float]:
    """All of the sound at the settings' rate, and how long it lasts."""
    waveform, rate_hz = audio.read_waveform(path)
    duration_s = len(waveform) / rate_hz
    if duration_s <= settings.offset_s:
        raise InputError(
            f"{path.name} is too short: {duration_s:.2f} s of sound, but the analysed part starts "
            f"at {settings.offset_s} s and lasts {settings.duration_s} s"
        )
    return audio.resample(waveform, rate_hz, settings.sample_rate_hz), duration_s


def _undecodable(path: Path, error: av.FFmpegError | OSError) -> InputError:
    return InputError(f"{path.name} cannot be decoded as a video ({error.strerror})")
