"""Tests of `cfnsr.own_clip.reading`: windows, and the arrays that they become."""

import re
import struct

import numpy as np
import pandas as pd
import pytest
import skimage.data
from conftest import SMALL, cut, remux, write_film
from hypothesis import given
from hypothesis import strategies as st

from cfnsr import InputError
from cfnsr.data import audio, face_detection, preprocess, video
from cfnsr.data.landmarks import read_landmarks
from cfnsr.data.media import pictures, probe
from cfnsr.data.synthetic import recording
from cfnsr.own_clip import reading
from cfnsr.own_clip.reading import HOP_S, Needs, open_clip
from cfnsr.params import Preprocess

BOTH = Needs(video=True, sound=True)
TONE = 0.1 * np.sin(np.arange(22_000))
SHORT = Preprocess(n_frames=4, frame_size=24, offset_s=0.1, duration_s=0.3, n_mfcc=5)
settings = st.builds(
    Preprocess, offset_s=st.floats(0, 2), duration_s=st.floats(0.1, 5), n_frames=st.integers(1, 40)
)


@given(duration_s=st.floats(0.05, 120), settings=settings)
def test_windows_are_equally_long_about_a_second_apart_and_cover_the_clip(duration_s, settings):
    windows = reading.windows(duration_s, settings)
    starts = np.array([window.start_s for window in windows])
    lengths = np.array([window.end_s - window.start_s for window in windows])
    assert starts[0] == 0
    assert windows[-1].end_s == pytest.approx(duration_s)
    np.testing.assert_allclose(lengths, lengths[0])
    assert (np.diff(starts) >= HOP_S / 2).all()
    assert (np.diff(starts) < 1.5 * HOP_S + 1e-9).all()
    if len(windows) > 1:
        assert lengths[0] == pytest.approx(settings.offset_s + settings.duration_s + 0.75)
        np.testing.assert_allclose(np.diff(starts)[:-1], HOP_S)


def test_no_take_of_ravdess_is_cut_into_windows():
    for n_frames in (88, 158):  # the shortest and the longest
        assert len(reading.windows(n_frames / (30_000 / 1001), Preprocess())) == 1
    assert len(reading.windows(7.0, Preprocess())) == 4


def test_nearly_the_last_window_does_not_count_twice():
    starts = [window.start_s for window in reading.windows(9.73, Preprocess())]
    np.testing.assert_allclose(starts, [0, 1, 2, 3, 4, 5, 6.03])


@pytest.mark.parametrize("draws", [False, True], ids=["faces", "landmarks"])
def test_a_clip_of_the_training_s_format_gives_the_training_s_arrays(one_clip, draws):
    needs = Needs(video=True, sound=True, draws_landmarks=draws, tracks=True)
    (arrays,) = open_clip(*one_clip, SMALL, needs).arrays()
    expected = preprocess.preprocess_clip(*one_clip, SMALL, draws)
    assert set(arrays) == set(expected)
    for name, array in expected.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)


def test_so_does_a_real_clip(ravdess_actor_1):
    clips = sorted(ravdess_actor_1.glob("Actor_01/*.mp4"))
    assert clips
    for path in clips:
        files = path, ravdess_actor_1 / "landmarks" / f"{path.stem}.csv"
        (arrays,) = open_clip(*files, SMALL, BOTH).arrays()
        expected = preprocess.preprocess_clip(*files, SMALL, draws_landmarks=False)
        for name in ("frames", "mfcc", "log_mel"):
            np.testing.assert_array_equal(arrays[name], expected[name])


def test_each_window_holds_its_own_stretch_of_sound_and_film(one_clip):
    path, landmarks = one_clip
    clip = open_clip(path, landmarks, SHORT, BOTH)
    points = read_landmarks(landmarks).points
    rate_hz = recording.FRAME_RATE_HZ
    assert len(clip.windows) > 1
    for window, arrays in zip(clip.windows, clip.arrays(), strict=True):
        shifted = SHORT.model_copy(update={"offset_s": window.start_s + SHORT.offset_s})
        sound = audio.read_window(path, shifted)
        expected = audio.mfcc(audio.log_mel(sound, SHORT.sample_rate_hz), SHORT.n_mfcc)
        np.testing.assert_array_equal(arrays["mfcc"], expected)

        first, end = (round(time_s * rate_hz) for time_s in (window.start_s, window.end_s))
        wanted = first + video.choose_frames(end - first, SHORT)
        film = dict(pictures(probe(path), wanted.tolist()))
        faces = [video.crop_face(film[i], points[i], SHORT) for i in wanted]
        np.testing.assert_array_equal(arrays["frames"], faces)


def test_windows_that_share_their_first_frame_are_both_whole(one_clip, monkeypatch):
    near = [reading.Window(0.0, 2.0), reading.Window(0.001, 2.001)]
    monkeypatch.setattr(reading, "windows", lambda duration_s, settings: near)
    one, two = open_clip(*one_clip, SHORT, BOTH).arrays()
    np.testing.assert_array_equal(one["frames"], two["frames"])


def test_without_landmarks_the_found_face_is_cropped(one_clip, monkeypatch):
    path, landmarks = one_clip
    points = read_landmarks(landmarks).points
    corners = np.stack([points.min(axis=1), points.max(axis=1)], axis=1)
    looked = []

    def track(frames, n_frames):
        looked.extend(i for i, _ in frames)
        return corners, ("a warning",)

    monkeypatch.setattr(face_detection, "track", track)
    clip = open_clip(path, None, SMALL, BOTH)
    (arrays,) = clip.arrays()
    np.testing.assert_array_equal(arrays["frames"], video.crop_faces(probe(path), points, SMALL))
    assert clip.warnings == ("a warning",)
    assert looked == list(range(0, len(points), face_detection.STEP))


def test_what_a_network_does_not_use_need_not_be_there(one_clip, tmp_path):
    for only, needs in (
        ("audio", Needs(video=False, sound=True)),
        ("video", Needs(video=True, sound=False)),
    ):
        path = tmp_path / f"{only}.mp4"
        remux(one_clip[0], path, only=only)
        (arrays,) = open_clip(path, one_clip[1], SMALL, needs).arrays()
        assert set(arrays) == ({"mfcc", "log_mel"} if only == "audio" else {"frames"})


def test_frames_that_the_tracker_lost_are_said_or_refused(one_clip, tmp_path):
    table = pd.read_csv(one_clip[1]).copy()  # in one piece
    needs = Needs(video=True, sound=True, tracks=True)
    whole = next(open_clip(*one_clip, SMALL, needs).arrays())
    lost = tmp_path / "lost.csv"
    table.assign(success=1 - table["frame"].isin([4, 5])).to_csv(lost, index=False)
    clip = open_clip(one_clip[0], lost, SMALL, needs)
    (warning,) = clip.warnings
    assert f"2 of {len(table)} frames were interpolated" in warning
    assert 0 < np.abs(next(clip.arrays())["motion"] - whole["motion"]).max() < 0.2

    table.assign(success=1 * (table["frame"] < 30)).to_csv(lost, index=False)
    with pytest.raises(InputError, match=r"lack the face in .* export them again with OpenFace"):
        open_clip(one_clip[0], lost, SMALL, needs)


ELSEWHERE = (
    "a face is found, but not where own.csv has it, so trust nothing of this; the table must be of "
    "this very film, not of a larger or smaller copy"
)


def told_of(path, points, size, folder, needs=BOTH):
    """What is said of a film with these landmarks times `size`."""
    names = [f"{axis}_{i}" for axis in "xy" for i in range(68)]
    table = pd.DataFrame(size * np.concatenate([points[..., 0], points[..., 1]], 1), columns=names)
    table.assign(timestamp=table.index / 29.97).to_csv(folder / "own.csv", index=False)
    return ELSEWHERE in open_clip(path, folder / "own.csv", SMALL, needs).warnings


def test_landmarks_of_a_smaller_or_larger_copy_of_the_film_are_told(one_clip, tmp_path):
    photograph = skimage.data.astronaut()
    path = tmp_path / "film.mp4"
    write_film(path, [photograph] * 40, np.arange(40) / 30, [(0, TONE)])
    (box,) = face_detection.find_faces(photograph)
    points = read_landmarks(one_clip[1]).points[:40]
    low, high = points.min(axis=(0, 1)), points.max(axis=(0, 1))
    points = box[0] + (points - low) / (high - low) * (box[1] - box[0])
    told = [told_of(path, points, size, tmp_path) for size in (1, 0.5, 1.5)]
    assert told == [False, True, True]
    # Tracks do not depend on the size of the film.
    assert not told_of(path, points, 0.5, tmp_path, Needs(video=False, sound=True, tracks=True))


def test_so_are_those_of_real_clips(ravdess_actor_1, tmp_path):
    needs = Needs(video=True, sound=False)
    for path in ravdess_actor_1.glob("Actor_01/*.mp4"):
        points = read_landmarks(ravdess_actor_1 / "landmarks" / f"{path.stem}.csv").points
        told = [told_of(path, points, size, tmp_path, needs) for size in (1, 0.5, 2 / 3, 1.5)]
        assert told == [False, True, True, True]


def test_drawn_landmarks_need_sound_but_no_film(one_clip, tmp_path):
    path = tmp_path / "sound.mp4"
    remux(one_clip[0], path, only="audio")
    needs = Needs(video=True, sound=True, draws_landmarks=True)
    (arrays,) = open_clip(path, one_clip[1], SMALL, needs).arrays()
    expected = preprocess.preprocess_clip(*one_clip, SMALL, draws_landmarks=True)
    assert arrays["frames"].shape == (5, 24, 24, 1)
    np.testing.assert_array_equal(arrays["frames"], expected["frames"])

    half = tmp_path / "half.csv"
    lines = one_clip[1].read_text().splitlines(True)
    half.write_text("".join(lines[: len(lines) // 2]))
    with pytest.raises(InputError, match="but the sound at"):
        open_clip(path, half, SMALL, needs)


def turned(source, target):
    """A copy whose header says that it was filmed by a camera turned a quarter to the right."""
    content = bytearray(source.read_bytes())
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    start = content.index(upright, content.index(b"tkhd"))  # the picture's, the first track
    content[start : start + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    target.write_bytes(content)


def test_a_clip_that_a_telephone_filmed_upright_is_turned(one_clip, tmp_path):
    turned(one_clip[0], tmp_path / "turned.mp4")
    (_, upright), (_, lying) = (
        next(pictures(probe(path), [0])) for path in (one_clip[0], tmp_path / "turned.mp4")
    )
    # To show it, players turn it a quarter to the right, as the header asks.
    np.testing.assert_array_equal(lying, np.rot90(upright, -1))


def late(path, picture_s=0.0, sound_s=0.0, duration_s=8.0):
    """A film and noise that start at these times and end together; brightness says the time."""
    rng = np.random.default_rng(0)
    shown_s = np.arange(round(15 * picture_s), round(15 * duration_s)) / 15
    film = [np.full((96, 96, 3), 40 + round(20 * time_s), np.uint8) for time_s in shown_s]
    noise = rng.normal(0, 0.1, round(16_000 * (duration_s - sound_s)))
    write_film(path, film, shown_s, [(sound_s, noise)])


@pytest.fixture
def still_face(monkeypatch):
    box = np.array([[10.0, 10.0], [80.0, 80.0]])

    def track(pictures, n_frames):
        return np.tile(box, (n_frames, 1, 1)), ()

    monkeypatch.setattr(face_detection, "track", track)


@pytest.mark.parametrize(
    ("missing", "needs"),
    [
        ("picture", BOTH),
        ("picture", Needs(video=True, sound=False)),
        ("sound", BOTH),
        ("sound", Needs(video=False, sound=True)),
    ],
)
def test_windows_without_what_the_network_needs_are_left_out_and_that_is_said(
    tmp_path, still_face, missing, needs
):
    late(tmp_path / "late.mp4", **{f"{missing}_s": 4.0})
    clip = open_clip(tmp_path / "late.mp4", None, SMALL, needs)
    every = reading.windows(8.0, SMALL)
    # Half of the window's film, or of the analysed sound from 0.5 s for 2.45 s, is there.
    first_s = 4 - 3.7 / 2 if missing == "picture" else 4 - 0.5 - 2.45 / 2
    assert [w.start_s for w in clip.windows] == pytest.approx(
        [w.start_s for w in every if w.start_s >= first_s], abs=0.05
    )
    gap, left_out = clip.warnings
    assert re.fullmatch(rf"late\.mp4 has no {missing} from 0\.0 to (4\.0|3\.9) s", gap)
    assert left_out == (
        f"{len(every) - len(clip.windows)} of {len(every)} windows are left out: most of what the "
        "network needs is missing there"
    )
    assert len(list(clip.arrays())) == len(clip.windows)


def test_what_the_network_does_not_need_may_be_missing(tmp_path, still_face):
    late(tmp_path / "late.mp4", picture_s=4.0)
    clip = open_clip(tmp_path / "late.mp4", None, SMALL, Needs(video=False, sound=True))
    assert clip.windows == reading.windows(clip.media.duration_s, SMALL)
    assert clip.warnings == ()
    assert len(list(clip.arrays())) == len(clip.windows)


def test_a_clip_of_which_nothing_is_left_is_refused(tmp_path, still_face):
    late(tmp_path / "late.mp4", sound_s=3.2, duration_s=4.0)
    with pytest.raises(InputError, match=r"late\.mp4 has no sound from 0\.0 to 3.* s, so nothing"):
        open_clip(tmp_path / "late.mp4", None, SMALL, BOTH)


def test_a_late_film_is_shown_when_it_is(tmp_path, still_face):
    late(tmp_path / "late.mp4", picture_s=1.0)
    clip = open_clip(tmp_path / "late.mp4", None, SMALL, BOTH)
    for window, arrays in zip(clip.windows, clip.arrays(), strict=True):
        shown_s = (arrays["frames"].mean(axis=(1, 2, 3)) - 40) / 20
        first_s = max(window.start_s, 1.0)
        expected = first_s + np.arange(5) * (window.end_s - first_s) / 5
        np.testing.assert_allclose(shown_s, expected, atol=0.2)


def test_a_cut_clip_is_an_error(one_clip, tmp_path):
    path = tmp_path / "whole.mp4"
    remux(one_clip[0], path)
    cut(path, 0.5)
    silent = Needs(video=True, sound=False)
    with pytest.raises(InputError, match=r"cut short|cannot be decoded"):
        list(open_clip(path, one_clip[1], SMALL, silent).arrays())


def test_a_face_that_leaves_the_picture_names_the_frame(one_clip, tmp_path, monkeypatch):
    far = np.tile([[-500.0, -500.0], [-400.0, -400.0]], (100, 1, 1))
    monkeypatch.setattr(face_detection, "track", lambda frames, n_frames: (far[:n_frames], ()))
    with pytest.raises(InputError, match=r"mp4, frame 1: the face is outside the frame"):
        list(open_clip(one_clip[0], None, SMALL, BOTH).arrays())
