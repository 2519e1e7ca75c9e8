"""Tests of `cfnsr.data.motion`."""

import numpy as np
from conftest import turned
from hypothesis import given
from hypothesis import strategies as st

from cfnsr.data import motion
from cfnsr.data.audio import HOP
from cfnsr.data.landmarks import read_landmarks
from cfnsr.data.motion import MIRRORED, N_TRACKS, STRIDE
from cfnsr.data.synthetic import faces
from cfnsr.params import Preprocess

RNG = np.random.default_rng(0)
PAPER = Preprocess()


def test_the_shape_forgets_where_how_large_and_how_tilted_the_face_is(face):
    moved = turned(face, degrees=25, scale=1.7, shift=[300, -40])
    np.testing.assert_allclose(
        motion.tracks(moved)[:, :136], motion.tracks(face)[:, :136], atol=1e-9
    )


def test_the_head_s_tracks_are_those_of_its_motion_alone(face):
    still = np.repeat(face[:1], 4, axis=0)
    nodding = still + np.arange(4)[:, None, None] * [0.0, 3.0]
    eyes = nodding[0, 42:48].mean(axis=0) - nodding[0, 36:42].mean(axis=0)
    head = motion.tracks(nodding)[:, 136:]
    np.testing.assert_allclose(head[:, [0, 2, 3]], 0, atol=1e-12)
    np.testing.assert_allclose(head[:, 1], 3 / np.hypot(*eyes) * (np.arange(4) - 1.5))


def test_a_track_has_the_value_of_the_moment_that_is_heard(face):
    n, duration_s = 120, 4.0
    sliding = np.repeat(face[:1], n, axis=0)
    seconds = (np.arange(n) + 0.5) * duration_s / n
    sliding[..., 0] += 50 * seconds[:, None]
    eyes = face[0, 42:48].mean(axis=0) - face[0, 36:42].mean(axis=0)
    tracks = motion.on_the_clock(motion.tracks(sliding), seconds, PAPER)
    assert tracks.shape == (N_TRACKS, 53)
    assert tracks.dtype == np.float32
    first_s = 0.5 + 1.5 * HOP / 44_100  # the middle of the first four MFCC frames
    heard_s = first_s + np.arange(53) * STRIDE * HOP / 44_100
    expected = 50 * (heard_s - seconds.mean()) / np.hypot(*eyes)
    np.testing.assert_allclose(tracks[136], expected, atol=1e-5)


def test_after_the_last_frame_a_track_stays_as_it_was(face):
    tracks = motion.tracks(face)
    on_the_clock = motion.on_the_clock(tracks, np.linspace(0, 1, len(tracks)), PAPER)
    np.testing.assert_allclose(on_the_clock[:, -1], tracks[-1], rtol=1e-6)


def test_mirrored_landmarks_are_those_of_the_same_parts_of_the_face():
    assert sorted(MIRRORED) == list(range(68))
    assert [MIRRORED[i] for i in MIRRORED] == list(range(68))  # twice is the same face again
    for part in (*faces.CUE_LANDMARKS.values(), range(17), range(27, 36)):
        assert {MIRRORED[i] for i in part} == set(part)


def test_a_mirrored_drawn_face_keeps_its_order_from_left_to_right(one_clip):
    points = read_landmarks(one_clip[1]).points.mean(axis=0)
    points -= points[27:31].mean(axis=0)  # the ridge of the nose
    mirrored = points[list(MIRRORED)] * [-1, 1]
    for strokes in (range(17), range(17, 27), range(31, 36), range(48, 55)):
        assert (np.diff(points[strokes, 0]) > 0).all()
        assert (np.diff(mirrored[strokes, 0]) > 0).all()
    width = np.ptp(points[:, 0])
    assert np.abs(mirrored - points).max() < 0.15 * width
    assert np.abs(points * [-1, 1] - points).max() > 0.5 * width


@given(n_clips=st.integers(1, 3), n_moments=st.integers(1, 6), spare=st.integers(0, STRIDE - 1))
def test_a_coarse_spectrogram_has_means_of_two_bands_and_four_frames(n_clips, n_moments, spare):
    log_mel = RNG.normal(-40, 10, (n_clips, 128, n_moments * STRIDE + spare)).astype(np.float16)
    coarse = motion.coarse(log_mel)
    assert coarse.shape == (n_clips, 64, n_moments)
    last = log_mel[-1, 126:, (n_moments - 1) * STRIDE : n_moments * STRIDE].astype(float)
    np.testing.assert_allclose(coarse[-1, -1, -1], last.mean(), rtol=1e-6)
