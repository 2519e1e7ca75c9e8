"""A clip of one's own, of any name and length, to arrays like those of the training clips.

A clip as long as RAVDESS's is one window, as in training. A longer one is looked at through a
sliding window of the length of an average take, so that each window holds what the network knows:
`duration_s` of sound with a little before and after it, and frames spaced over all of it.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cfnsr import InputError
from cfnsr.data import audio, face_detection, landmark_detection, preprocess, video
from cfnsr.data.drawing import draw_faces
from cfnsr.data.landmarks import are_of_one_clip, check_duration, read_landmarks
from cfnsr.data.media import Clip, Kind, pictures, probe
from cfnsr.params import Preprocess

#: What follows the analysed sound in RAVDESS's 1440 takes: 0.75 s on average (they last 3.70 s),
#: 2.33 s in the longest (5.27 s).
TAIL_S, LONGEST_TAIL_S = 0.75, 2.33
HOP_S = 1.0
#: In how many frames landmarks are compared with where a face is found: half a second of work.
N_CHECKED = 5
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

    @property
    def crops(self) -> bool:
        """Whether faces are cut out of a film."""
        return self.video and not self.draws_landmarks


@dataclass(frozen=True, eq=False)
class OwnClip:
    """An opened clip.

    `points` (frame, point, 2), pixels: 68 landmarks, or the two corners of a found face, whose
    box is all that a crop needs; no frame where nobody looks. `shown_s` (frame,), the middle of
    each of those frames, seconds of the clip. `waveform` at the settings' rate.
    """

    media: Clip
    settings: Preprocess
    needs: Needs
    windows: list[Window]
    points: np.ndarray
    shown_s: np.ndarray
    waveform: np.ndarray | None
    warnings: tuple[str, ...]

    def arrays(self) -> Iterator[dict[str, np.ndarray]]:
        """Each window's arrays, named and made as `cfnsr.data.preprocess` does, in order of time.

        Raises:
            InputError: the file is damaged, or the face leaves the frame.
        """
        spans = [self._span(window) for window in self.windows] if len(self.points) else []
        chosen = [video.choose_shown(self.media.picture, *span, self.settings) for span in spans]
        cropped = self._crops(chosen)
        for i, window in enumerate(self.windows):
            arrays = {}
            if self.needs.crops:
                arrays["frames"] = next(cropped)
            elif self.needs.video:
                arrays["frames"] = draw_faces(self.points[chosen[i]], self.settings)
            if self.needs.tracks:
                seen = slice(*spans[i])
                shown_s = self.shown_s[seen] - window.start_s
                arrays |= preprocess.track_arrays(self.points[seen], shown_s, self.settings)
            if self.waveform is not None:
                start_s = window.start_s + self.settings.offset_s
                heard = audio.cut_resampled(self.waveform, start_s, self.settings)
                arrays |= preprocess.sound_arrays(heard, self.settings)
            preprocess.check_finite(self.media.path.name, arrays)
            yield arrays

    def _span(self, window: Window) -> tuple[int, int]:
        """A window's first frame and the one after its last."""
        # Decoders pad the sound's last block, over which landmarks are spread, beyond its stamps.
        end_s = window.end_s if window.end_s < self.media.duration_s else np.inf
        first, end = np.searchsorted(self.shown_s, (window.start_s, end_s)).tolist()
        first = min(first, len(self.shown_s) - 1)
        return first, max(end, first + 1)

    def _crops(self, chosen: list[np.ndarray]) -> Iterator[np.ndarray]:
        """Each window's faces in one pass; only those of the windows under way are kept."""
        wanted = {int(i) for frames in chosen for i in frames}
        faces: dict[int, np.ndarray] = {}
        ahead = video.faces(self.media, wanted, self.points, self.settings)
        for frames in chosen:
            while frames[-1] not in faces:
                faces.update([next(ahead)])
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
            "it, with --landmarks, install what finds them with `make landmarks`, or "
            "choose another --run"
        )
    otherwise = "" if needs.landmarks else ", or leave --landmarks out"
    if landmarks is not None and not landmarks.is_file():
        raise InputError(
            f"{landmarks} is no file; give OpenFace's 68 points of this clip{otherwise}"
        )
    clip = probe(path)
    if needs.crops:
        clip.need("picture")
    waveform, sound_s = None, clip.duration_s
    if needs.sound:
        samples, rate_hz = audio.decode(clip)
        waveform = audio.resample(samples, rate_hz, settings.sample_rate_hz)
        sound_s = len(samples) / rate_hz
        if clip.duration_s <= settings.offset_s:
            raise InputError(
                f"{path.name} is too short: it lasts {clip.duration_s:.2f} s, but the analysed "
                f"part of its sound starts at {settings.offset_s} s"
            )
    n_frames = len(clip.picture.starts_s) if clip.picture else 0
    points = np.empty((0, 68, 2))
    warnings: tuple[str, ...] = ()
    if landmarks is not None and (needs.video or needs.tracks):
        remedy = "export them again with OpenFace" + otherwise
        tracked = read_landmarks(landmarks, remedy)
        points, warnings = tracked.points, tracked.notes
        if not n_frames:
            check_duration(tracked, sound_s, remedy)
        elif not are_of_one_clip(n_frames, len(points)):
            raise InputError(
                f"{path.name} has {n_frames} frames, but {landmarks.name} has {len(points)}; "
                "do both belong to this clip?"
            )
        n_frames = min(n_frames or len(points), len(points))
        if needs.crops:
            first = face_detection.looked_at(n_frames)[:N_CHECKED]
            if face_detection.is_elsewhere(pictures(clip, first), points):
                warnings += (
                    f"a face is found, but not where {landmarks.name} has it, so trust nothing of "
                    "this; the table must be of this very film, not of a larger or smaller copy",
                )
    elif needs.landmarks:
        points, warnings = _find_landmarks(clip)
    elif needs.video:
        wanted = face_detection.looked_at(n_frames)
        shown = tqdm(pictures(clip, wanted), "look for the face", len(wanted), delay=PATIENCE_S)
        points, warnings = face_detection.track(shown, n_frames)
    kept, missing = _usable_windows(clip, settings, needs)
    shown_s = video.landmark_times(n_frames, sound_s, clip.picture)
    warnings = (*clip.warnings, *missing, *warnings)
    return OwnClip(clip, settings, needs, kept, points, shown_s, waveform, warnings)


def _find_landmarks(clip: Clip) -> tuple[np.ndarray, tuple[str, ...]]:
    def shown(wanted: Collection[int]) -> Iterable[tuple[int, np.ndarray]]:
        return tqdm(pictures(clip, wanted), "find landmarks", len(wanted), delay=PATIENCE_S)

    if not clip.picture:
        raise InputError(f"{clip.path.name}: it has no picture; give --landmarks")
    try:
        return landmark_detection.find_landmarks(shown, len(clip.picture.starts_s))[:2]
    except InputError as error:
        raise InputError(f"{clip.path.name}: {error}") from None


def _usable_windows(
    clip: Clip, settings: Preprocess, needs: Needs
) -> tuple[list[Window], list[str]]:
    """The windows in which what a network needs is there, and what to warn of."""
    is_needed: dict[Kind, bool] = {"picture": needs.video or needs.tracks, "sound": needs.sound}
    kinds = [kind for kind, needed in is_needed.items() if needed]
    warnings = [
        f"{clip.path.name} has no {kind} from "
        + " and from ".join(f"{start:.1f} to {end:.1f} s" for start, end in clip.tracks[kind].gaps)
        for kind in kinds
        if kind in clip.tracks and clip.tracks[kind].gaps
    ]
    every = windows(clip.duration_s, settings)
    kept = [
        window
        for window in every
        if not preprocess.mostly_missing(clip, kinds, window.start_s, window.end_s, settings)
    ]
    if not kept:
        raise InputError(f"{', '.join(warnings)}, so nothing is left to classify; export it again")
    if len(kept) < len(every):
        n_left_out = len(every) - len(kept)
        warnings.append(
            f"{n_left_out} of {len(every)} windows are left out: most of what the network "
            "needs is missing there"
        )
    return kept, warnings
