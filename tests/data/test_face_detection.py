"""Tests of `cfnsr.data.face_detection`; the only photograph is one that scikit-image ships."""

import numpy as np
import pytest
import skimage.data

from cfnsr.data import face_detection
from cfnsr.data.landmarks import read_landmarks
from cfnsr.data.media import pictures, probe


def corners(left, top, right, bottom):
    return np.array([[left, top], [right, bottom]], float)


def overlap(one, two):
    """Intersection over union of boxes (n, 2, 2)."""
    low, high = np.maximum(one[:, 0], two[:, 0]), np.minimum(one[:, 1], two[:, 1])
    common = np.prod(np.clip(high - low, 0, None), axis=1)
    return common / (sum(np.prod(box[:, 1] - box[:, 0], axis=1) for box in (one, two)) - common)


def test_a_photographed_face_is_found_between_brows_and_chin():
    (box,) = face_detection.find_faces(skimage.data.astronaut())
    # Measured with a ruler: ear to ear, brows to chin.
    assert overlap(box[None], corners(172, 88, 270, 190)[None])[0] > 0.6


def test_a_face_is_found_wherever_and_however_large_it_is():
    photograph = skimage.data.astronaut()
    (expected,) = face_detection.find_faces(photograph)
    canvas = np.zeros((540, 900, 3), np.uint8)
    canvas[20:532, 300:812] = photograph
    (moved,) = face_detection.find_faces(canvas)
    assert overlap(moved[None] - (300, 20), expected[None])[0] > 0.6


@pytest.mark.parametrize("name", ["coins", "brick"])
def test_no_face_is_found_where_there_is_none(name):
    grey = getattr(skimage.data, name)()
    assert face_detection.find_faces(np.stack([grey] * 3, axis=-1)).shape == (0, 2, 2)


def found(monkeypatch, boxes):
    """`track` of 100 x 80 pictures whose faces are these: a box, a list of them, or None."""
    shown = (np.array([] if each is None else each, float).reshape(-1, 2, 2) for each in boxes)
    monkeypatch.setattr(face_detection, "find_faces", lambda picture: next(shown))
    n_frames = face_detection.STEP * len(boxes)
    positions = face_detection.looked_at(n_frames)
    assert len(positions) == len(boxes)
    frames = ((i, np.zeros((80, 100, 3), np.uint8)) for i in positions)
    return face_detection.track(frames, n_frames)


def test_a_face_that_holds_still_keeps_its_box(monkeypatch):
    box = corners(10, 20, 50, 70)
    boxes, warnings = found(monkeypatch, [box] * 6)
    assert boxes.shape == (36, 2, 2)
    np.testing.assert_array_equal(boxes, np.tile(box, (36, 1, 1)))
    assert warnings == ()


def test_a_moving_face_is_followed_between_the_frames_looked_at(monkeypatch):
    moving = [corners(10 + 6 * i, 20, 50 + 6 * i, 70) for i in range(8)]
    boxes, _ = found(monkeypatch, moving)
    np.testing.assert_allclose(np.diff(boxes[12:30, 0, 0]), 1)  # 6 pixels in 6 frames
    np.testing.assert_array_equal(boxes[:, 0, 1], 20)


def test_one_false_box_among_true_ones_changes_nothing(monkeypatch):
    box = corners(10, 20, 50, 70)
    boxes, _ = found(monkeypatch, [box, box, corners(0, 0, 9, 9), box, box, box])
    np.testing.assert_array_equal(boxes, np.tile(box, (36, 1, 1)))


def test_frames_without_a_found_face_take_it_from_their_neighbours_with_a_warning(monkeypatch):
    box = corners(10, 20, 50, 70)
    boxes, warnings = found(monkeypatch, [None, box, None, None, None])
    np.testing.assert_array_equal(boxes, np.tile(box, (30, 1, 1)))
    assert warnings[0].startswith(
        "a face was found in only 1 of 5 frames, none from frame 8 to 30,"
    )


def test_without_any_face_the_middle_is_taken_with_a_warning(monkeypatch):
    boxes, warnings = found(monkeypatch, [None, None])
    np.testing.assert_array_equal(boxes, np.tile(corners(30, 20, 70, 60), (12, 1, 1)))
    assert "no face was found in 2 frames" in warnings[0]
    assert "--landmarks" in warnings[0]


LEFT, RIGHT = corners(0, 10, 40, 60), corners(60, 10, 95, 60)


def test_of_two_people_the_same_is_followed_whoever_is_larger_at_the_moment(monkeypatch):
    larger = corners(56, 10, 98, 60)
    boxes, (warning,) = found(
        monkeypatch, [[LEFT, RIGHT], [larger, LEFT], [larger, LEFT], [LEFT, RIGHT], [LEFT, RIGHT]]
    )
    np.testing.assert_array_equal(boxes, np.tile(LEFT, (30, 1, 1)))
    assert warning.startswith("there is more than one face: the one at x 20, y 35 in frame 1 is")


def test_two_people_are_not_mixed_up_while_one_is_not_found(monkeypatch):
    boxes, _ = found(monkeypatch, [[LEFT, RIGHT], [LEFT, RIGHT], [RIGHT], [LEFT, RIGHT], [LEFT]])
    np.testing.assert_array_equal(boxes, np.tile(LEFT, (30, 1, 1)))


def test_at_a_cut_the_box_jumps_at_once_and_it_is_said(monkeypatch):
    boxes, (warning,) = found(monkeypatch, [LEFT] * 4 + [RIGHT] * 5)
    np.testing.assert_array_equal(boxes[:21], np.tile(LEFT, (21, 1, 1)))
    np.testing.assert_array_equal(boxes[21:], np.tile(RIGHT, (33, 1, 1)))
    assert warning.startswith("the face jumps in frame 22, as at a cut of scene")


def test_a_face_that_comes_back_where_it_was_is_the_same(monkeypatch):
    boxes, warnings = found(monkeypatch, [LEFT, LEFT, LEFT, None, None, None, LEFT, LEFT])
    np.testing.assert_array_equal(boxes, np.tile(LEFT, (48, 1, 1)))
    assert warnings == ()


def test_a_face_that_is_away_for_a_second_is_told(monkeypatch):
    boxes, (warning,) = found(monkeypatch, [LEFT] * 4 + [None] * 5 + [LEFT] * 6)
    np.testing.assert_array_equal(boxes, np.tile(LEFT, (90, 1, 1)))
    assert warning.startswith("a face was found in only 10 of 15 frames, none from frame 20 to 54,")


def test_a_face_that_is_framed_twice_is_one(monkeypatch):
    larger = corners(0, 10, 46, 66)
    boxes, warnings = found(monkeypatch, [[LEFT, larger]] * 4)
    np.testing.assert_array_equal(boxes, np.tile(larger, (24, 1, 1)))
    assert warnings == ()


def test_on_real_clips_the_box_is_that_of_the_landmarks(ravdess_actor_1):
    clips = sorted(ravdess_actor_1.glob("Actor_01/*.mp4"))
    assert clips
    for path in clips:
        points = read_landmarks(ravdess_actor_1 / "landmarks" / f"{path.stem}.csv").points
        frames = pictures(probe(path), face_detection.looked_at(len(points)))
        boxes, warnings = face_detection.track(frames, len(points))
        expected = np.stack([points.min(axis=1), points.max(axis=1)], axis=1)
        assert overlap(boxes, expected).mean() > 0.8
        assert warnings == ()
