"""Tables of facial landmarks, as OpenFace writes them, and what it says there of itself."""

import codecs
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd

from cfnsr import InputError
from cfnsr.data.drawing import STROKES

N_LANDMARKS = 68
#: By how much landmarks and sound may end apart. Of RAVDESS's 1440 takes, one ends 0.33 s before
#: its sound, and none after it.
LANDMARK_TOLERANCE_S = 0.5
#: OpenFace sets `success` where the confidence is above this, its `validation_boundary`. Not every
#: release writes both.
MIN_CONFIDENCE = 0.725
#: What is interpolated at most. On RAVDESS's takes it misplaces the points of every fifth frame by
#: 1.2 % of the distance between the eyes, and of half a second by 4.0 % (medians); a take moves by
#: 9.8 %.
MAX_MENDED, MAX_GAP_S = 0.2, 0.5
#: From eyes to mouth. No tracker follows a smaller face: such numbers are no pixels.
SMALLEST_PX = 8
_COLUMNS = [f"{axis}_{i}" for axis in "xy" for i in range(N_LANDMARKS)]
_SAID = ["frame", "timestamp", "confidence", "success", "face_id"]
_NOT_A_NUMBER = ["-nan(ind)", "nan(ind)"]  # as C on Windows prints it
_FETCH = "fetch them again"
#: Points whose next one continues a line of the face.
_CONTINUED = [i for first, last, _ in STROKES for i in range(first, last)]
_LEFT, _RIGHT = [*range(8), *range(36, 42)], [*range(9, 17), *range(42, 48)]  # jaw and eye
_DOWNWARDS = slice(17, 27), slice(36, 48), slice(31, 36), slice(48, 68)  # brows, eyes, nose, mouth


@dataclass(frozen=True, eq=False)
class Landmarks:
    """One face's landmarks in every frame of a clip.

    `points` float64 (frame, 68, 2), x and y in pixels of the full frame; `end_s` the last time
    stamp, None without any; `notes` say what was mended, and which face was followed of several.
    """

    name: str
    points: np.ndarray
    end_s: float | None
    notes: tuple[str, ...] = ()


def read_landmarks(path: Path, remedy: str = _FETCH) -> Landmarks:
    """68 facial landmarks a frame from a csv named and written as OpenFace does.

    Rows go by their `frame`. Of several faces (`face_id`) the one is followed that is tracked in
    most frames, of equals the larger. Frames that the tracker lost (`success`, `confidence`, no
    number, all points in one place) or left out are filled in from their neighbours, linearly in
    time, if they are few.

    Args:
        remedy: what an error tells the user to do.

    Raises:
        InputError: not there, no table, without the columns x_0..x_67, y_0..y_67, a damaged line,
            a frame twice, too many frames lost, or points that are no face.
    """
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what is huge or nan is refused
            return _read(path)
    except OSError as error:
        raise InputError(
            f"landmarks {path.parent.name}/{path.name} cannot be read ({error.strerror}); "
            "fetch the landmark archive"
        ) from None
    except InputError as error:
        raise InputError(f"landmarks {path.name} {error}; {remedy}") from None


def check_duration(landmarks: Landmarks, sound_s: float, remedy: str = _FETCH) -> None:
    """Whether landmarks end with the sound, by their time stamps.

    Raises:
        InputError: they end before, as a file that was cut at the end of a line, or after, as
            another take's.
    """
    if landmarks.end_s is None:
        raise InputError(f"landmarks {landmarks.name} lack column timestamp; {remedy}")
    if not abs(landmarks.end_s - sound_s) < LANDMARK_TOLERANCE_S:
        raise InputError(
            f"landmarks {landmarks.name} end at {landmarks.end_s:.2f} s, but the sound at "
            f"{sound_s:.2f} s; {remedy}"
        )


def are_of_one_clip(n_frames: int, n_landmarks: int) -> bool:
    """Whether so many frames and landmarks can belong together.

    The tracker may lose a frame or two at an end; more means that they are of another clip.
    """
    return abs(n_frames - n_landmarks) <= 3


def _read(path: Path) -> Landmarks:
    table = _table(path)
    coordinates = table[_COLUMNS].to_numpy(float)
    frame, face = _frame_and_face(table)
    n_frames = int(frame.max()) + 1
    end_s = float(table["timestamp"].max()) if "timestamp" in table else np.nan
    tracked = _is_tracked(table, coordinates)

    size = np.ptp(_points(coordinates), axis=1).prod(axis=1)
    faces = np.unique(face)
    seen = {one: tracked & (face == one) for one in faces}
    followed = max(faces, key=lambda one: (seen[one].sum(), size[seen[one]].sum()))
    rows = np.flatnonzero(seen[followed])
    rows = rows[np.argsort(frame[rows])]
    whom, notes = "the face", []
    if len(faces) > 1:
        whom = f"face {followed:g} of {len(faces)}"
        notes.append(
            f"{path.name} has {len(faces)} faces: face {followed:g} was followed, which the "
            f"tracker found in {len(rows)} of {n_frames} frames"
        )
    if len(rows) < n_frames:
        # Without time stamps a film has some 30 frames a second.
        frame_s = end_s / (n_frames - 1) if end_s > 0 and n_frames > 1 else 1 / 30
        _reject_gaps(whom, frame[rows], n_frames, frame_s)
        notes.append(
            f"the landmarks of {n_frames - len(rows)} of {n_frames} frames were interpolated, "
            "because the tracker failed there or wrote nothing"
        )
    _reject_what_is_no_face(_points(coordinates[rows]), frame[rows])
    every = np.arange(n_frames)
    whole = np.stack([np.interp(every, frame[rows], each) for each in coordinates[rows].T]).T
    return Landmarks(path.name, _points(whole), None if np.isnan(end_s) else end_s, tuple(notes))


def _frame_and_face(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The frame, from 0, and the face of each row; without columns, the row's place and 0."""
    n_rows = len(table)
    frame = table["frame"].to_numpy() if "frame" in table else np.arange(n_rows, dtype=float)
    face = table["face_id"].to_numpy() if "face_id" in table else np.zeros(n_rows)
    if (np.concatenate([frame, face]) % 1 != 0).any():
        raise InputError("have a frame or face_id that is no whole number")
    pairs, counts = np.unique(np.stack([frame, face]), axis=1, return_counts=True)
    if (counts > 1).any():
        raise InputError(f"have frame {pairs[0, counts.argmax()]:.0f} twice")
    if len(np.unique(face)) > 1 and "frame" not in table:
        raise InputError("have several faces, but lack column frame")
    return frame - min(1, frame.min()), face  # OpenFace counts from 1


def _reject_gaps(whom: str, known: np.ndarray, n_frames: int, frame_s: float) -> None:
    n_lost = n_frames - len(known)
    gap_s = (np.diff([-1, *known, n_frames]).max() - 1) * frame_s
    if n_lost > MAX_MENDED * n_frames or gap_s > MAX_GAP_S:
        raise InputError(
            f"lack {whom} in {n_lost} of {n_frames} frames, for up to {gap_s:.2f} s on end; at "
            f"most {100 * MAX_MENDED:.0f} % of the frames and {MAX_GAP_S} s can be interpolated"
        )


def _table(path: Path) -> pd.DataFrame:
    """The columns that are read, those of the points and what the tracker says; all float."""
    content = path.read_bytes()
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        header, *lines = content.decode("utf-16" if is_utf16 else "utf-8-sig").splitlines()
    except ValueError:
        raise InputError("are empty or no csv") from None
    separator = max(",;\t", key=header.count)
    names = [name.strip(' "') for name in header.split(separator)]
    if missing := [name for name in _COLUMNS if name not in names]:
        raise InputError(f"lack column {missing[0]}")
    if not any(map(str.strip, lines)):
        raise InputError("have no frame")
    for number, line in enumerate(lines, start=2):
        fields = line.removesuffix(separator) if line.count(separator) == len(names) else line
        if line.strip() and fields.count(separator) != len(names) - 1:
            raise InputError(
                f"are damaged: line {number} has {fields.count(separator) + 1} fields instead of "
                f"{len(names)}"
            )
    text = "\n".join(lines)
    wanted = [names.index(name) for name in (*_SAID, *_COLUMNS) if name in names]
    try:
        # By place: a separator at the end of the lines must not shift the columns.
        table = pd.read_csv(
            StringIO(text),
            sep=separator,
            decimal="," if separator != "," and "." not in text else ".",
            header=None,
            usecols=wanted,
            dtype=float,
            skipinitialspace=True,  # some releases write a blank after each comma
            na_values=_NOT_A_NUMBER,
        )
    except ValueError as error:
        raise InputError(f"are damaged: {' '.join(str(error).split())}") from None
    return table.set_axis([names[place] for place in sorted(wanted)], axis="columns")


def _is_tracked(table: pd.DataFrame, coordinates: np.ndarray) -> np.ndarray:
    """Whether the tracker found the face of each row, bool (row,), by all that it says."""
    has_extent = (np.ptp(_points(coordinates), axis=1) > 0).all(axis=1)
    found: np.ndarray = has_extent & np.isfinite(coordinates).all(axis=1)
    for name, least in ("success", 1.0), ("confidence", MIN_CONFIDENCE):
        if name in table:
            found &= table[name].to_numpy() >= least
    return found


def _reject_what_is_no_face(points: np.ndarray, frame: np.ndarray) -> None:
    """Refuse points that no head makes, however it is turned: (frame, 68, 2).

    From the brows down follow eyes, nose and mouth, where down is from the eyes to the mouth; jaw
    and eye that come first are on the left; no two neighbours on a line of the face are further
    apart than eyes and mouth; and these are a few pixels apart.
    """
    levels = np.stack([points[:, part].mean(axis=1) for part in _DOWNWARDS], axis=1)
    down = levels[:, 3] - levels[:, 1]  # frame 2
    across = points[:, _RIGHT].mean(axis=1) - points[:, _LEFT].mean(axis=1)
    height = np.hypot(*down.T)
    steps = np.linalg.norm(np.diff(points, axis=1)[:, _CONTINUED], axis=2)
    is_face = (
        (np.diff(levels, axis=1) @ down[:, :, None] > 0).all(axis=(1, 2))
        & (across[:, 0] * down[:, 1] > across[:, 1] * down[:, 0])
        & (steps.max(axis=1) < height)
        & (height >= SMALLEST_PX)
    )
    if not is_face.all():
        raise InputError(
            f"cannot be a face in {(~is_face).sum()} of {len(points)} frames, first in frame "
            f"{frame[is_face.argmin()] + 1:.0f}; x and y in pixels of the picture are expected"
        )


def _points(coordinates: np.ndarray) -> np.ndarray:
    """(frame, 136), all x before all y, to (frame, 68, 2)."""
    return coordinates.reshape(-1, 2, N_LANDMARKS).swapaxes(1, 2)
