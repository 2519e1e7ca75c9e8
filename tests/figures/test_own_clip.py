import numpy as np
import pandas as pd

from cfnsr.figures import own_clip


def windows(*starts_s):
    table = pd.DataFrame(
        [(start, start + 2.0, emotion) for start in starts_s for emotion in range(8)],
        columns=["start_s", "end_s", "emotion"],
    )
    return table.assign(probability=1 / 8)


def cells(figure):
    (mesh,) = figure.axes[0].collections
    return mesh.get_coordinates()[0, :, 0], np.ma.getmaskarray(mesh.get_array())[0]


def test_a_timeline_shows_where_windows_were_left_out():
    edges_s, is_empty = cells(own_clip.timeline(windows(0, 0.5, 1, 3, 3.5), "Title"))
    assert edges_s.tolist() == [0.75, 1.25, 1.75, 2.25, 3.75, 4.25, 4.75]
    assert is_empty.tolist() == [False, False, False, True, False, False]


def test_a_timeline_may_end_with_a_window_that_starts_a_little_later():
    edges_s, is_empty = cells(own_clip.timeline(windows(0, 0.5, 1, 1.125), "Title"))
    assert edges_s.tolist() == [0.75, 1.25, 1.75, 2.25, 2.375]
    assert not is_empty.any()
