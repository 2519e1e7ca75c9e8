import av
import cv2
import numpy as np
import pytest
from conftest import cut, remux
from hypothesis import given
from hypothesis import strategies as st

from cfnsr import InputError
from cfnsr.data import video
from cfnsr.data.landmarks import read_landmarks
from cfnsr.data.media import Track, probe
from cfnsr.data.video import (
    choose_frames,
    choose_shown,
    crop_face,
    crop_faces,
    landmark_times,
)
from cfnsr.params import Preprocess

SETTINGS = Preprocess(n_frames=5, frame_size=24)
SQUASHED = SETTINGS.model_copy(update={"crop": "squashed_first"})


@pytest.fixture
def film(tmp_path):
    """A function that writes an mp4 of RGB pictures and gives its path."""

    def write(pictures):
        path = tmp_path / "film.mp4"
        with av.open(path, "w") as container:
            stream = container.add_stream("libx264", 25, options={"crf": "10", "threads": "1"})
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt = "yuv420p"
            for picture in pictures:
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return write


def square(left, top, side):
    """68 points that span a square."""
    rng = np.random.default_rng(1)
    points = rng.uniform((left, top), (left + side, top + side), (68, 2))
    points[0], points[1] = (left, top), (left + side, top + side)
    return points


def sharpness(faces):
    """Variance of the Laplacian, a common measure of sharpness."""
    return np.var([cv2.Laplacian(face, cv2.CV_64F) for face in faces])


@given(st.integers(1, 400), st.integers(1, 60))
def test_evenly_spaced_frames_follow_the_releases_rule(n_available, n_frames):
    chosen = choose_frames(n_available, Preprocess(n_frames=n_frames))
    assert chosen.tolist() == [int(k * n_available / n_frames + 1e-9) for k in range(n_frames)]
    assert chosen[0] == 0
    assert chosen[-1] < n_available
    assert (np.diff(chosen) >= 0).all()
    assert np.ptp(np.diff(chosen)) <= 1 if n_frames > 1 else True


@given(st.integers(1, 60), st.data())
def test_consecutive_frames_come_from_the_middle(n_frames, data):
    n_available = data.draw(st.integers(n_frames, 400))
    settings = Preprocess(n_frames=n_frames, frame_choice="consecutive")
    chosen = choose_frames(n_available, settings)
    assert (np.diff(chosen) == 1).all()
    before, after = chosen[0], n_available - 1 - chosen[-1]
    assert 0 <= after - before <= 1


def track(starts_s, last_s):
    starts = np.array(starts_s)
    return Track(0, starts, np.append(starts[1:], last_s), (), None)


@given(st.integers(1, 400), st.integers(1, 60), st.floats(1, 240), st.integers(0, 10**6))
def test_of_a_film_of_constant_rate_the_same_frames_are_chosen(n, n_frames, rate_hz, seed):
    settings = Preprocess(n_frames=n_frames)
    rounded = np.arange(n + 1) + np.random.default_rng(seed).uniform(-0.4, 0.4, n + 1)
    rounded[[0, -1]] = 0, n
    film = track(rounded[:-1] / rate_hz, n / rate_hz)
    np.testing.assert_array_equal(choose_shown(film, 0, n, settings), choose_frames(n, settings))


def test_of_a_film_of_variable_rate_frames_are_chosen_by_their_time():
    # A second of 30 frames, then one of 5.
    film = track([*np.arange(30) / 30, *(1 + np.arange(5) / 5)], 2.0)
    chosen = choose_shown(film, 0, 35, Preprocess(n_frames=10))
    shown = film.starts_s[chosen]
    assert np.abs(shown - np.arange(10) / 5).max() < 0.21
    assert (chosen >= 30).sum() == 5


def test_landmarks_are_spread_over_the_sound_unless_the_film_shows_them_at_another_time():
    even = track(np.arange(30) / 30, 1.0)
    np.testing.assert_allclose(landmark_times(30, 1.05, even), (np.arange(30) + 0.5) * 0.035)
    np.testing.assert_allclose(landmark_times(30, 1.05, None), (np.arange(30) + 0.5) * 0.035)
    late = track(0.5 + np.arange(30) / 30, 1.5)
    np.testing.assert_allclose(landmark_times(30, 1.5, late), 0.5 + (np.arange(30) + 0.5) / 30)
    assert np.ptp(landmark_times(32, 1.5, late)[29:]) == 0


def test_too_few_frames_for_consecutive_ones_are_refused():
    settings = Preprocess(n_frames=30, frame_choice="consecutive")
    with pytest.raises(InputError, match="29 frames, but 30 consecutive ones are asked for; lower"):
        choose_frames(29, settings)


@pytest.mark.parametrize("settings", [SETTINGS, SETTINGS.model_copy(update={"frame_size": 112})])
def test_faces_are_a_plain_decode_a_slice_and_a_resize(one_clip, settings):
    media, landmarks = one_clip
    points = read_landmarks(landmarks).points
    with av.open(media) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(pictures) == len(points)
    expected = []
    for k in range(settings.n_frames):
        i = k * len(pictures) // settings.n_frames
        (left, top), (right, bottom) = np.floor(points[i].min(0)), np.ceil(points[i].max(0))
        face = pictures[i][int(top) : int(bottom), int(left) : int(right)]
        how = cv2.INTER_AREA if min(face.shape[:2]) >= settings.frame_size else cv2.INTER_CUBIC
        expected.append(cv2.resize(face, (settings.frame_size,) * 2, interpolation=how))
    found = crop_faces(probe(media), points, settings)
    assert found.shape == (5, settings.frame_size, settings.frame_size, 3)
    np.testing.assert_array_equal(found, expected)


def test_squashing_the_frame_first_gives_the_same_face_with_less_sharpness(one_clip):
    media, landmarks = one_clip
    points = read_landmarks(landmarks).points
    sharp, blurred = (crop_faces(probe(media), points, chosen) for chosen in (SETTINGS, SQUASHED))
    assert sharp.shape == blurred.shape
    assert sharpness(sharp) > 2 * sharpness(blurred)
    assert np.corrcoef(sharp.ravel(), blurred.ravel())[0, 1] > 0.7


@pytest.mark.parametrize("colour", [(200, 20, 30), (20, 200, 30), (30, 20, 200)])
@pytest.mark.parametrize("settings", [SETTINGS, SQUASHED])
def test_colours_stay_red_green_and_blue_in_that_order(film, colour, settings):
    picture = np.full((96, 128, 3), 120, np.uint8)
    picture[20:80, 30:90] = colour
    faces = crop_faces(probe(film([picture] * 10)), np.stack([square(38, 28, 40)] * 10), settings)
    np.testing.assert_allclose(faces.mean(axis=(0, 1, 2)), colour, atol=12)


def test_each_frame_is_cropped_to_its_own_landmarks(film):
    pictures, points = [], []
    for i in range(10):
        picture = np.zeros((96, 128, 3), np.uint8)
        picture[30:62, 8 * i : 8 * i + 32] = 255
        pictures.append(picture)
        points.append(square(8 * i + 2, 32, 28))
    assert crop_faces(probe(film(pictures)), np.stack(points), SETTINGS).min() > 200


def test_a_box_that_is_partly_outside_is_cut_at_the_edge():
    picture = np.arange(40 * 60 * 3, dtype=np.uint32).reshape(40, 60, 3).astype(np.uint8)
    found = crop_face(picture, square(-4.0, 20.0, 24), SETTINGS)
    expected = cv2.resize(picture[20:40, 0:20], (24, 24), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("corner", [(500, 20), (-30, 10), (10, 35), (1e6, 1e6)])
@pytest.mark.parametrize("settings", [SETTINGS, SQUASHED])
def test_a_face_outside_the_frame_is_refused(corner, settings):
    picture = np.zeros((40, 60, 3), np.uint8)
    with pytest.raises(InputError, match=r"face is outside the frame .* picture of 60 x 40"):
        crop_face(picture, square(*corner, 24), settings)


def test_landmarks_of_another_length_than_the_video_are_refused_but_three_frames_pass(one_clip):
    media, landmarks = one_clip
    points = read_landmarks(landmarks).points
    for wrong in (points[:20], np.concatenate([points, points])):
        with pytest.raises(InputError, match=rf"frames, but landmarks of {len(wrong)}; do both"):
            crop_faces(probe(media), wrong, SETTINGS)
    assert len(crop_faces(probe(media), points[:-3], SETTINGS)) == 5


@pytest.mark.parametrize("content", [b"", b"no video\n"])
def test_a_file_that_is_no_video_is_refused(tmp_path, content):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=r"^clip\.mp4 cannot be decoded .*fetch or export it again$"
    ):
        crop_faces(probe(path), np.zeros((50, 68, 2)), SETTINGS)


def test_an_mp4_without_its_index_is_refused(one_clip, tmp_path):
    path = tmp_path / "clip.mp4"
    remux(one_clip[0], path, index_first=False)
    cut(path, 0.6)
    with pytest.raises(InputError, match=r"^clip\.mp4 cannot be decoded"):
        crop_faces(probe(path), read_landmarks(one_clip[1]).points, SETTINGS)


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_an_mp4_that_is_cut_short_is_refused(one_clip, tmp_path, share):
    path = tmp_path / "clip.mp4"
    remux(one_clip[0], path)
    cut(path, share)
    with pytest.raises(InputError, match=r"^clip\.mp4 (is cut short|cannot be decod)"):
        crop_faces(probe(path), read_landmarks(one_clip[1]).points, SETTINGS)


def shorten_edit(path, by_s):
    """Let an mp4's edit list end its pictures earlier than its packets do."""
    content = bytearray(path.read_bytes())
    assert content.count(b"elst") == 1
    duration = slice(content.index(b"elst") + 12, content.index(b"elst") + 16)
    shorter_ms = int.from_bytes(content[duration]) - round(1000 * by_s)
    content[duration] = shorter_ms.to_bytes(4)
    path.write_bytes(content)


@pytest.mark.parametrize("n_frames", [5, 39, 60])
def test_frames_that_the_edit_list_cuts_off_are_none_of_the_clips(film, n_frames):
    pictures = [np.full((96, 128, 3), 40 + 5 * i, np.uint8) for i in range(40)]
    path = film(pictures)
    shorten_edit(path, 1 / 25)
    with av.open(path) as container:
        assert container.streams.video[0].frames == 40
        assert len(list(container.decode(video=0))) == 39
    settings = SETTINGS.model_copy(update={"n_frames": n_frames})
    faces = crop_faces(probe(path), np.stack([square(30, 20, 60)] * 40), settings)
    expected = 40 + 5 * (np.arange(n_frames) * 39 // n_frames)
    np.testing.assert_allclose(faces.mean(axis=(1, 2, 3)), expected, atol=3)


@pytest.mark.parametrize("settings", [SETTINGS, SETTINGS.model_copy(update={"n_frames": 30})])
def test_leaving_out_frames_that_no_other_needs_changes_no_picture(film, settings, monkeypatch):
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (50, 12, 16, 3), np.uint8)
    path = film([cv2.resize(picture, (128, 96)) for picture in noise])
    points = np.stack([square(31, 21, 60)] * 50)
    with av.open(path) as container:
        types = {int(frame.pict_type) for frame in container.decode(video=0)}
        assert int(av.video.frame.PictureType.B) in types
    with av.open(path) as container:
        plain = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    decoded = []
    crop = video.crop_face
    monkeypatch.setattr(video, "crop_face", lambda *args: decoded.append(args[0]) or crop(*args))
    crop_faces(probe(path), points, settings)
    chosen = choose_frames(50, settings)
    assert len(decoded) == len(chosen)
    for picture, i in zip(decoded, chosen, strict=True):
        np.testing.assert_array_equal(picture, plain[i])


def test_an_mp4_without_pictures_is_refused(one_clip, tmp_path):
    path = tmp_path / "clip.mp4"
    remux(one_clip[0], path, only="audio")
    with pytest.raises(InputError, match=r"^clip\.mp4 has no picture stream; fetch"):
        crop_faces(probe(path), read_landmarks(one_clip[1]).points, SETTINGS)


def test_real_faces_are_sharp_and_skin_is_reddish(ravdess_actor_1):
    paper = Preprocess()
    media = ravdess_actor_1 / "Actor_01" / "01-01-08-01-01-02-01.mp4"
    points = read_landmarks(ravdess_actor_1 / "landmarks" / f"{media.stem}.csv").points
    faces = crop_faces(probe(media), points, paper)
    squashed = crop_faces(probe(media), points, paper.model_copy(update={"crop": "squashed_first"}))
    assert faces.shape == (30, 224, 224, 3)
    assert sharpness(faces) > 1.5 * sharpness(squashed)
    red, green, blue = faces.mean(axis=(0, 1, 2))
    assert red > green > blue
