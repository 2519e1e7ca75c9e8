import numpy as np
import pandas as pd
import pytest

from cfnsr import InputError
from cfnsr.data.landmarks import check_duration, read_landmarks


@pytest.fixture
def csv(tmp_path):
    """A function that writes a table, text or bytes and gives their path."""

    def write(table):
        path = tmp_path / "landmarks.csv"
        text = table.to_csv(index=False) if isinstance(table, pd.DataFrame) else table
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.fixture
def table(one_clip):
    return pd.read_csv(one_clip[1])


@pytest.fixture
def openface(table):
    """The table with all that OpenFace 2 says of itself."""
    return said(table, face_id=0, success=1)


def said(table, **columns):
    return pd.concat([pd.DataFrame(columns, table.index), table], axis=1)


def coordinates(table):
    return [name for name in table if name[:2] in ("x_", "y_")]


def points_of(table):
    """(frame, 68, 2), as the table has them."""
    return np.stack([table[[f"{axis}_{i}" for i in range(68)]] for axis in "xy"], axis=-1)


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
    found = read_landmarks(csv(wide.to_csv(index=False).replace(",", ", "))).points
    expected = np.stack([table[points[:68]], table[points[68:]]], axis=-1)
    assert points[0] == "x_0"
    assert points[68] == "y_0"
    np.testing.assert_allclose(found, expected)


def test_a_comma_at_the_end_of_each_line_does_not_shift_the_columns(csv, table):
    # A column follows the points, as in OpenFace's files, so that a shift would show no gap.
    head, *lines = csv(table).read_text().splitlines()
    found = read_landmarks(csv("\n".join([head + ",AU01_r", *(f"{line},1," for line in lines)])))
    np.testing.assert_array_equal(found.points, points_of(table))


@pytest.mark.parametrize(
    "written",
    [
        lambda t: t.to_csv(index=False, encoding="utf-8-sig").encode("utf-8-sig"),
        lambda t: t.to_csv(index=False).encode("utf-16"),
        lambda t: t.to_csv(index=False, lineterminator="\r\n"),
        lambda t: t.to_csv(index=False) + "\n \n",
        lambda t: t.to_csv(index=False, sep=";"),
        lambda t: t.to_csv(index=False, sep="\t"),
        lambda t: t.to_csv(index=False, sep=";", decimal=","),
        lambda t: t.to_csv(index=False, quoting=1),
        lambda t: t.rename(columns=lambda name: f"{name} ").to_csv(index=False),
        lambda t: t.rename(columns=lambda name: f" {name}").to_csv(index=False),
        lambda t: t.to_csv(index=False).replace(",", " , "),
        lambda t: t.sample(frac=1, random_state=0),
        lambda t: t.assign(frame=t["frame"] - 1),
        lambda t: t.drop(columns="frame"),
        lambda t: t.drop(columns=["confidence", "success", "face_id", "timestamp"]),
    ],
)
def test_a_table_is_read_alike_however_it_is_written(csv, openface, written):
    found = read_landmarks(csv(written(openface)))
    np.testing.assert_array_equal(found.points, points_of(openface))
    assert found.notes == ()


def without(*rows):
    return lambda t: t.drop(index=list(rows))


def failed(*rows, **says):
    """The tracker says that it failed, and its points have drifted away."""

    def change(table):
        table = table.copy()
        table.loc[list(rows), coordinates(table)] *= 0.5
        table.loc[list(rows), list(says)] = list(says.values())
        return table

    return change


def with_rows(value, *rows):
    def change(table):
        table = table.astype(object)
        table.loc[list(rows), coordinates(table)] = value
        return table

    return change


@pytest.mark.parametrize(
    "change",
    [
        without(3, 4),
        failed(3, 4, success=0),
        failed(3, 4, confidence=0.72),
        failed(3, 4, success=0, confidence=0.02),
        with_rows(0, 3, 4),
        with_rows(np.nan, 3, 4),
        with_rows("-nan(ind)", 3, 4),
        with_rows("inf", 3, 4),
    ],
)
def test_a_few_lost_frames_are_interpolated_linearly_and_it_is_said(csv, openface, change):
    found = read_landmarks(csv(change(openface)))
    expected = points_of(openface)
    expected[3] = (2 * expected[2] + expected[5]) / 3
    expected[4] = (expected[2] + 2 * expected[5]) / 3
    np.testing.assert_allclose(found.points, expected, rtol=0, atol=1e-9)
    (note,) = found.notes
    assert note.startswith(f"the landmarks of 2 of {len(openface)} frames were interpolated")


def test_lost_frames_at_the_ends_are_like_their_neighbours(csv, openface):
    n = len(openface)
    found = read_landmarks(csv(failed(n - 2, n - 1, success=0)(openface.drop(index=[0, 1]))))
    expected = points_of(openface)
    expected[:2], expected[-2:] = expected[2], expected[-3]
    np.testing.assert_array_equal(found.points, expected)


def test_more_than_a_fifth_or_half_a_second_is_not_invented(csv, openface):
    n = len(openface)
    step_s = openface["timestamp"].diff().median()
    n_gap = int(0.5 / step_s)
    assert n_gap < 0.2 * n  # or the two limits could not be told apart
    gap = range(5, 5 + n_gap)
    assert len(read_landmarks(csv(without(*gap)(openface))).points) == n
    with pytest.raises(InputError, match=rf"lack the face in {n_gap + 1} of {n} frames, for up to"):
        read_landmarks(csv(without(*gap, 5 + n_gap)(openface)))
    scattered = range(1, n - 1, 4)
    assert len(scattered) > 0.2 * n
    with pytest.raises(InputError, match=rf"lack the face in {len(scattered)} of {n} .*20 % of"):
        read_landmarks(csv(failed(*scattered, success=0)(openface)))
    with pytest.raises(InputError, match=rf"lack the face in {n} of {n} frames"):
        read_landmarks(csv(failed(*range(n), success=0)(openface)))


def test_the_face_that_is_tracked_most_is_followed_and_of_two_the_larger(csv, openface):
    small = openface.assign(face_id=1)
    small[coordinates(small)] *= 0.6
    rarer = openface.drop(index=[4, 5])
    for faces, followed, n in (
        ([openface, small], openface, len(openface)),
        ([small, openface], openface, len(openface)),
        ([rarer, small], small, len(small)),
        ([failed(6, success=0)(openface), small], small, len(small)),
    ):
        both = pd.concat(faces).sort_values("frame", kind="stable")
        found = read_landmarks(csv(both))
        np.testing.assert_array_equal(found.points, points_of(followed))
        (note,) = found.notes
        face = followed["face_id"].iloc[0]
        assert note.startswith(f"landmarks.csv has 2 faces: face {face} was followed")
        assert note.endswith(f"in {n} of {len(openface)} frames")


def test_two_faces_that_take_turns_are_refused(csv, openface):
    turns = pd.concat([openface.iloc[::2], openface.iloc[1::2].assign(face_id=1)])
    with pytest.raises(InputError, match=r"lack face 0 of 2 in .* fetch them again$"):
        read_landmarks(csv(turns))


def doubled(table):
    return pd.concat([table, table.iloc[[4]]])


def swapped(table):
    return table.rename(
        columns=lambda name: {"x": "y_", "y": "x_"}[name[0]] + name[2:] if name[1] == "_" else name
    )


def in_one_line(text, line, old, new):
    lines = text.splitlines(True)
    lines[line] = lines[line].replace(old, new)
    return "".join(lines)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: "", "are empty or no csv"),
        (lambda t: b"\xfd\xfe" * 50, "are empty or no csv"),
        (lambda t: "\0\1\2" * 50, "lack column x_0"),
        (lambda t: "Hello\n", "lack column x_0"),
        (lambda t: t.head(0), "have no frame"),
        (lambda t: t.drop(columns="y_67"), "lack column y_67"),
        (lambda t: t.rename(columns=str.upper), "lack column x_0"),  # OpenFace's millimetres
        (lambda t: with_rows("lost", 3)(t), "are damaged: .*'lost'"),
        (lambda t: t.to_csv(index=False)[:-300], r"are damaged: line \d+ has \d+ fields instead"),
        (lambda t: in_one_line(t.to_csv(index=False), 7, ".", ","), "are damaged: line 8 has"),
        (lambda t: in_one_line(t.to_csv(index=False, sep=";"), 7, ".", ","), "are damaged: "),
        (lambda t: t.to_csv(index=False).rstrip()[:-4], "cannot be a face in 1 of"),
        (lambda t: t * 0, "have frame 0 twice"),
        (lambda t: t.drop(columns="frame") * 0, "lack the face in (..) of .. frames"),
        (doubled, "have frame 5 twice"),
        (lambda t: t.assign(frame=t["frame"] + 0.5), "have a frame or face_id that is no whole"),
        (lambda t: t.assign(frame=1e19 * t["frame"]), "lack the face in"),
        (lambda t: said(t, face_id=np.arange(len(t)) % 2).drop(columns="frame"), "lack column"),
        (swapped, r"cannot be a face in (..) of .. frames, first in frame 1;"),
        (lambda t: t.assign(y_30=t["y_30"].where(t["frame"] != 9, 1e19)), "face in 1 .* frame 9;"),
        (lambda t: t.assign(x_5=t["x_5"].where(t["frame"] != 9, 1e300)), "face in 1 .* frame 9;"),
    ],
)
def test_landmarks_that_cannot_be_used_are_refused_with_the_reason(csv, table, change, expected):
    with pytest.raises(InputError, match=rf"^landmarks landmarks\.csv .*({expected})") as caught:
        read_landmarks(csv(change(table)))
    assert str(caught.value).endswith("fetch them again")
    assert "\n" not in str(caught.value)


def turned(points, yaw, pitch, roll):
    """A flat face of some depth, (68, 2), as it looks when the head turns, in degrees."""
    x, y = (points - points.mean(axis=0)).T
    z = 0.3 * np.hypot(x, y)  # the ears lie behind the nose
    yaw, pitch, roll = np.deg2rad([yaw, pitch, roll])
    x, z = x * np.cos(yaw) + z * np.sin(yaw), z * np.cos(yaw) - x * np.sin(yaw)
    y = y * np.cos(pitch) + z * np.sin(pitch)
    x, y = x * np.cos(roll) - y * np.sin(roll), x * np.sin(roll) + y * np.cos(roll)
    return np.stack([x, y], axis=-1)


@pytest.mark.parametrize("angles", [(60, 0, 0), (-60, 0, 0), (0, 35, 0), (0, -35, 0), (0, 0, 170)])
def test_a_turned_head_is_still_a_face(csv, table, angles):
    faces = np.stack([turned(face, *angles) for face in points_of(table)])
    table[coordinates(table)] = faces.swapaxes(1, 2).reshape(len(table), -1)
    assert read_landmarks(csv(table)).notes == ()


def test_mirrored_points_are_no_face(csv, table):
    table[[f"x_{i}" for i in range(68)]] *= -1
    with pytest.raises(InputError, match="cannot be a face"):
        read_landmarks(csv(table))


def test_points_that_are_no_pixels_are_refused(csv, table):
    table[coordinates(table)] /= 500
    with pytest.raises(InputError, match=r"cannot be a face .* in pixels of the picture"):
        read_landmarks(csv(table))


def test_every_real_table_is_as_it_was_written(ravdess_actor_1):
    tables = sorted((ravdess_actor_1 / "landmarks").glob("*.csv"))
    assert tables
    for path in tables:
        found = read_landmarks(path)
        np.testing.assert_array_equal(found.points, points_of(pd.read_csv(path)))
        assert found.notes == ()


@pytest.mark.parametrize("separator", [",", ", "])
def test_landmarks_that_do_not_end_with_the_sound_are_refused(csv, table, separator):
    def read(part):
        return read_landmarks(csv(part.to_csv(index=False).replace(",", separator)))

    last_s = table["timestamp"].iloc[-1]
    check_duration(read(table), last_s + 0.49)
    check_duration(read(table), last_s - 0.49)
    short = read(table[table["timestamp"] < last_s - 1])  # the points alone do not tell
    assert 0 < len(short.points) < len(table)
    for landmarks, sound_s in (short, last_s), (read(table), last_s - 0.6):
        with pytest.raises(InputError, match=r"^landmarks landmarks\.csv end at .* them again$"):
            check_duration(landmarks, sound_s)
    with pytest.raises(InputError, match="lack column timestamp; fetch them again"):
        check_duration(read(table.drop(columns="timestamp")), last_s)


def test_missing_landmarks_are_refused_with_their_path(tmp_path):
    path = tmp_path / "landmarks" / "gone.csv"
    with pytest.raises(InputError, match=r"landmarks/gone\.csv cannot be read \(No such file"):
        read_landmarks(path)
