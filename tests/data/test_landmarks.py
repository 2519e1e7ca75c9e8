import numpy as np
import pandas as pd
import pytest

from cfnsr.data.landmarks import check_duration, read_landmarks
from cfnsr.errors import InputError


@pytest.fixture
def csv(one_clip, tmp_path):
    """A function that writes a changed landmark table and gives its path."""

    def write(table):
        path = tmp_path / "landmarks.csv"
        text = table if isinstance(table, str) else table.to_csv(index=False)
        path.write_text(text)
        return path

    return write


@pytest.fixture
def table(one_clip):
    return pd.read_csv(one_clip[1])


def coordinates(table):
    return [name for name in table if name[:2] in ("x_", "y_")]


def test_landmarks_are_read_by_name_among_openfaces_700_columns_with_blanks(csv, table):
    n_frames = len(table)
    rng = np.random.default_rng(1)
    groups = {
        "gaze": [f"gaze_{i}" for i in range(8)],
        "eyes": [f"eye_lmk_{axis}_{i}" for axis in "xyXYZ" for i in range(56)],
        "pose": [f"pose_{i}" for i in range(6)],
    }
    before = [name for names in groups.values() for name in names]
    after = [f"{axis}_{i}" for axis in "XYZ" for i in range(68)]
    after += [f"p_{i}" for i in range(40)] + [f"AU{i:02d}_r" for i in range(20)]
    noise = pd.DataFrame(
        rng.normal(size=(n_frames, len(before) + len(after))), columns=before + after
    )
    lead = ["frame", "timestamp", "confidence"]
    points = coordinates(table)
    wide = pd.concat([table[lead], noise[before], table[points], noise[after]], axis=1)
    assert wide.shape[1] > 690
    found = read_landmarks(csv(wide.to_csv(index=False).replace(",", ", ")))
    expected = np.stack([table[points[:68]], table[points[68:]]], axis=-1)
    assert points[0] == "x_0"
    assert points[68] == "y_0"
    np.testing.assert_allclose(found, expected)


def test_a_comma_at_the_end_of_each_line_does_not_shift_the_columns(csv, table, one_clip):
    # A column follows the points, as in OpenFace's files, so that a shift would show no gap.
    head, *lines = csv(table).read_text().splitlines()
    found = read_landmarks(csv("\n".join([head + ",AU01_r", *(f"{line},1," for line in lines)])))
    np.testing.assert_array_equal(found, read_landmarks(one_clip[1]))


def with_row(table, row, value):
    table = table.astype(object)
    table.loc[row] = value
    return table


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: "", "are empty or no csv"),
        (lambda t: "\0\1\2" * 50, "lack column|are empty or no csv"),
        (lambda t: "Hello\n", "lack column x_0"),
        (lambda t: t.head(0), "have no frame"),
        (lambda t: t.drop(columns="y_67"), "lack column y_67"),
        (lambda t: with_row(t, 3, np.nan), "are not finite numbers in 1 of .* first in frame 4"),
        (lambda t: with_row(t, 3, "lost"), "are not finite numbers in 1 of .* first in frame 4"),
        (lambda t: t.replace(t["x_5"][0], np.inf), "are not finite numbers in .* frame 1"),
        (lambda t: t.to_csv(index=False)[:-300], "are not finite numbers in 1 of"),
        (lambda t: t * 0, "the tracker lost the face, in (..) of .. frames, first in frame 1"),
        (lambda t: with_row(t, 8, 0), "the tracker lost the face, in 1 of .* first in frame 9"),
    ],
)
def test_landmarks_that_cannot_be_used_are_refused_with_the_reason(csv, table, change, expected):
    with pytest.raises(InputError, match=rf"^landmarks landmarks\.csv .*({expected})") as caught:
        read_landmarks(csv(change(table)))
    assert str(caught.value).endswith("fetch them again")


@pytest.mark.parametrize("separator", [",", ", "])
def test_landmarks_that_end_long_before_the_sound_are_refused(csv, table, separator):
    def write(part):
        return csv(part.to_csv(index=False).replace(",", separator))

    last_s = table["timestamp"].iloc[-1]
    check_duration(write(table), last_s + 0.49)
    check_duration(write(table), last_s - 1)
    short = table[table["timestamp"] < last_s - 1]
    assert 0 < len(short) < len(table)
    read_landmarks(write(short))  # the points alone do not tell
    with pytest.raises(InputError, match=r"^landmarks landmarks\.csv end at .* fetch them again$"):
        check_duration(write(short), last_s)
    with pytest.raises(InputError, match="lack column timestamp; fetch them again"):
        check_duration(write(table.drop(columns="timestamp")), last_s)


def test_missing_landmarks_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"gone\.csv are missing; fetch the landmark archive"):
        read_landmarks(tmp_path / "gone.csv")
