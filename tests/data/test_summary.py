"""Tests of `cfnsr.data.summary`."""

import numpy as np
from conftest import turned

from cfnsr.data.motion import tracks
from cfnsr.data.summary import landmark_statistics, mfcc_statistics


def test_shape_does_not_depend_on_where_how_large_and_how_tilted_the_face_is(face):
    moved = turned(face, degrees=20, scale=1.7, shift=[300, -40])
    np.testing.assert_allclose(
        landmark_statistics(tracks(moved))[:408], landmark_statistics(tracks(face))[:408], atol=1e-4
    )


def test_eyes_are_level_and_a_unit_apart(face):
    mean_shape = landmark_statistics(tracks(turned(face, 35, 2, 0)))[:136].reshape(68, 2)
    between = mean_shape[42:48].mean(axis=0) - mean_shape[36:42].mean(axis=0)
    np.testing.assert_allclose(between, [1, 0], atol=1e-3)


def test_head_motion_is_measured_apart_from_the_shape(face):
    rigid = np.repeat(face[:1], 20, axis=0)
    nodding = rigid + np.arange(20)[:, None, None] * [0.0, 3.0]
    statistics = landmark_statistics(tracks(nodding))
    np.testing.assert_allclose(statistics[136:408], 0, atol=1e-5)  # shape: sd and change
    sd, change = statistics[408:412], statistics[412:]
    size = np.hypot(*(face[0, 42:48].mean(axis=0) - face[0, 36:42].mean(axis=0)))
    np.testing.assert_allclose(change, [0, 3 / size, 0, 0], atol=1e-5)
    np.testing.assert_allclose(sd[1], 3 / size * np.arange(20).std(), rtol=1e-4)


def test_a_single_frame_has_no_motion(face):
    statistics = landmark_statistics(tracks(face[:1]))
    assert np.isfinite(statistics).all()
    assert not statistics[136:].any()


def test_mfcc_statistics_of_a_ramp_are_worked_by_hand():
    ramp = np.array([[[0.0, 2.0, 4.0]]])
    np.testing.assert_allclose(mfcc_statistics(ramp), [[2, np.sqrt(8 / 3), 2, 4, 0]])
