"""Tables of facial landmarks, as OpenFace writes them."""

from pathlib import Path

import numpy as np
import pandas as pd

from cfnsr.errors import InputError

N_LANDMARKS = 68
#: By how much landmarks may end before the sound; of RAVDESS's 1440 takes, one does by 0.33 s.
LANDMARK_TOLERANCE_S = 0.5
_COLUMNS = [f"{axis}_{i}" for axis in "xy" for i in range(N_LANDMARKS)]
_READ = frozenset(_COLUMNS)
_FETCH = "fetch them again"


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


def are_of_one_clip(n_frames: int, n_landmarks: int) -> bool:
    """Whether so many frames and landmarks can belong together.

    The tracker may lose a frame or two at an end; more means that they are of another clip.
    """
    return abs(n_frames - n_landmarks) <= 3
