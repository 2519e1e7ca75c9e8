import numpy as np
import pytest
from conftest import TAKES
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cfnsr.data import drawing
from cfnsr.data.corpora.ravdess import stem
from cfnsr.data.drawing import STROKES
from cfnsr.data.landmarks import read_landmarks
from cfnsr.params import Drawing, Preprocess

SIZE = 64
finite = st.floats(-1e4, 1e4, width=32)


@pytest.fixture(scope="module")
def points(synthetic_root):
    return read_landmarks(synthetic_root / "landmarks" / f"{stem(TAKES[0])}.csv").points


def draw_faces(points, size, how):
    return drawing.draw_faces(points, Preprocess(frame_size=size, drawing=how))[..., 0]


def extent(pictures):
    """First and last bright row and column of each picture, (frame, 4)."""
    rows, columns = (pictures > 100).any(axis=2), (pictures > 100).any(axis=1)
    ends = [rows.argmax(1), rows[:, ::-1].argmax(1), columns.argmax(1), columns[:, ::-1].argmax(1)]
    return np.stack(ends, axis=1)


def test_the_strokes_use_each_of_the_68_points_once():
    used = [point for first, last, _ in STROKES for point in range(first, last + 1)]
    assert used == list(range(68))


@pytest.mark.parametrize("box", ["clip", "frame"])
@pytest.mark.parametrize("line_width_px", [1, 3, 5])
@settings(max_examples=25, deadline=None)
@given(drawn=arrays(np.float32, (3, 68, 2), elements=finite), size=st.integers(16, 80))
def test_no_stroke_touches_the_edge_where_it_could_be_cut(box, line_width_px, drawn, size):
    drawn[:, 0], drawn[:, 16] = -2e4, 2e4  # so that no box is empty
    pictures = draw_faces(drawn, size, Drawing(box=box, line_width_px=line_width_px))
    assert pictures.shape == (3, size, size)
    assert pictures.dtype == np.uint8
    assert (pictures.max(axis=(1, 2)) > 0).all()
    edge = np.ones((size, size), bool)
    edge[1:-1, 1:-1] = False
    assert pictures[:, edge].max() < 128


def test_a_face_fills_the_picture_by_its_longer_side(points):
    top, bottom, left, right = extent(draw_faces(points, SIZE, Drawing(box="frame"))).T
    assert (np.minimum(top + bottom, left + right) <= 5).all()


def test_the_clips_box_keeps_the_heads_motion_and_the_frames_box_removes_it(points):
    moving = points + np.linspace(0, 20, len(points))[:, None, None] * (1, 0)
    clip, frame = (extent(draw_faces(moving, SIZE, Drawing(box=box))) for box in ("clip", "frame"))
    still = extent(draw_faces(points, SIZE, Drawing(box="frame")))
    assert clip[-1, 2] - clip[0, 2] > 5
    np.testing.assert_array_equal(frame, still)


def test_a_face_looks_the_same_from_near_and_far_and_anywhere(points):
    drawn = draw_faces(points, SIZE, Drawing()).astype(float)
    for other in (2 * points, points - (-300, 40), 0.5 * points + 7):
        difference = np.abs(draw_faces(other, SIZE, Drawing()) - drawn)
        assert difference.mean() < 0.1


def test_proportions_are_kept(points):
    wide = draw_faces(points * (2, 1), SIZE, Drawing(box="frame"))
    top, bottom, left, right = extent(wide).T
    shape = np.ptp(points * (2, 1), axis=1)
    expected = shape[:, 1] / shape[:, 0]
    np.testing.assert_allclose((SIZE - top - bottom) / (SIZE - left - right), expected, atol=0.06)


def test_every_point_is_drawn_where_it_belongs(points):
    pictures = draw_faces(points, SIZE, Drawing())
    low, high = points.min(axis=(0, 1)), points.max(axis=(0, 1))
    scale = (SIZE - 3) / (high - low).max()
    where = np.round((points - (low + high) / 2) * scale + (SIZE - 1) / 2).astype(int)
    for picture, face in zip(pictures, where, strict=True):
        x, y = face.T
        near = [picture[y + dy, x + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        assert (np.max(near, axis=0) > 60).all()


def test_equal_points_give_equal_pictures(points):
    assert (draw_faces(points, SIZE, Drawing()) == draw_faces(points, SIZE, Drawing())).all()


def test_wider_lines_leave_more_white(points):
    thin, thick = (draw_faces(points, SIZE, Drawing(line_width_px=w)).mean() for w in (1, 3))
    assert thick > 1.5 * thin
