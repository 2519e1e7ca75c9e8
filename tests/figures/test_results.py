import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from test_tables import CONTROL, REAL, by_row, every_row, paper, run

from cfnsr.data.corpora.ravdess import EMOTIONS
from cfnsr.evaluation import tables
from cfnsr.evaluation.selection import RULES
from cfnsr.figures import examples, results, style
from cfnsr.models.registry import ROWS, find
from cfnsr.params import Preprocess

pytestmark = pytest.mark.filterwarnings("error")

RULE = "last epoch"
SMALL = "networks of reduced size (CFN-SR 0.00 M parameters; the paper's 26.30 M)"


def index(n_actors=24):
    clips = [(actor, emotion) for actor in range(1, n_actors + 1) for emotion in EMOTIONS]
    return pd.DataFrame(clips, columns=["actor", "emotion"])


def win_matrix(runs):
    """Of the form of `scores.win_matrix`, which tests 350 pairs of rows; empty for a single row."""
    names = list(runs) if len(runs) > 1 else []
    place = np.arange(len(names))
    signs = np.array([0.0, 1, -1])[(place[:, None] - place) % 3]
    np.fill_diagonal(signs, np.nan)
    return pd.DataFrame(signs, index=names, columns=names)


def drawn_from(runs, params):
    """Every figure of notebook 03."""
    table = tables.table({name: find(name) for name in runs}, paper(runs))
    title = f"title\n{tables.setting(params)}"
    first = next(iter(runs.values()))
    return {
        "accuracy": results.accuracy(table, tables.ceilings(params), title),
        "folds": results.fold_heatmap(runs, RULE, title),
        "curves": results.curves(runs, title),
        "size": results.accuracy_against_size(table, title),
        "wins": results.wins(win_matrix(runs), title),
        "confusion": results.confusion(first, RULE, title),
        "reliability": results.reliability(first, RULE, title),
    }


def with_longest_labels(runs, n):
    longest = sorted(runs, key=lambda name: len(find(name).label))[-n:]
    return {name: of_row for name, of_row in runs.items() if name in longest}


def texts(figure):
    return [text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))]


def is_cut(figure):
    """Whether anything that is drawn reaches beyond the picture's edge, by more than rounding."""
    drawn = figure.get_tightbbox()  # inches
    low, high = np.min(drawn.min), np.max(drawn.max - figure.get_size_inches())
    return low < -0.01 or high > 0.01


@pytest.mark.parametrize(
    ("make_runs", "params"),
    [
        (every_row, CONTROL),
        (
            lambda: with_longest_labels(every_row(folds=[4]), 8),
            REAL.model_copy(update={"fold": 4, "data": "ravdess_landmarks"}),
        ),
        (lambda: {"erann": [run([4], "erann", 4)]}, CONTROL.model_copy(update={"fold": 4})),
    ],
    ids=["all rows and folds", "one fold", "one row, one fold, one epoch"],
)
def test_every_figure_names_its_setting_and_cuts_no_text(make_runs, params):
    runs = make_runs()
    for name, figure in drawn_from(runs, params).items():
        title = " ".join(figure.get_suptitle().split())
        size = "" if name != "accuracy" or "cfn_sr" not in runs else f" {SMALL}"
        assert title == f"title {tables.setting(params)}{size}", name
        assert not is_cut(figure), name
    assert plt.get_fignums() == []


def test_the_accuracy_figure_shows_rules_paper_chance_and_known_ceilings_alone():
    runs = every_row(folds=[1, 2])
    table = tables.table({name: find(name) for name in runs}, paper(runs))
    on_control = texts(results.accuracy(table, tables.ceilings(CONTROL), ""))
    expected = {*table["rule"], *table["label"], "chance, 13.3 %"}
    expected |= {"paper, on RAVDESS (best test epoch)"}
    assert expected | {"best possible accuracy"} <= set(on_control)
    on_real = texts(results.accuracy(table, tables.ceilings(REAL), ""))
    assert expected <= set(on_real)
    assert "best possible accuracy" not in on_real


def test_the_papers_number_stands_on_the_line_of_its_codes_rule():
    table = tables.table({"cfn_sr": find("cfn_sr")}, paper(every_row(folds=[1, 2])))
    (axis,) = results.accuracy(table, tables.ceilings(REAL), "").axes
    (paper_mark,) = [mark for mark in axis.lines if mark.get_label().startswith("paper")]
    heights = {
        bars.get_label(): bars[0].get_ydata()[0]
        for bars in axis.containers
        if bars.get_label() in RULES
    }
    assert len(heights) == 3
    assert paper_mark.get_ydata()[0] == heights["best test epoch"]
    last = table[table["rule"] == "last epoch"]
    assert results.accuracy(last, tables.ceilings(REAL), "").axes  # notebook 09 has one rule


def test_rows_of_several_seeds_say_so_and_those_of_one_do_not():
    runs = {
        "cfn_sr": [run([4, 6], "cfn_sr", fold, seed) for fold in (1, 2) for seed in (1, 2, 3)],
        "video": [run([4, 6], "video", fold) for fold in (1, 2)],
    }
    drawn = drawn_from(runs, REAL)
    for name in ("accuracy", "folds", "curves"):
        found = texts(drawn[name])
        assert "CFN-SR, 3\N{NO-BREAK SPACE}seeds" in found, name
        assert find("video").label in found, name


def test_long_names_of_rows_with_several_seeds_do_not_run_into_each_other():
    names = [name for name, row in ROWS.items() if row.alias is None and row.group != "switches"]
    runs = by_row(*[run([4, 6], name, 1, seed) for name in names for seed in (1, 2, 3)])
    figure = results.curves(runs, "title")
    renderer = FigureCanvasAgg(figure).get_renderer()
    found = [axis.title.get_window_extent(renderer) for axis in figure.axes if axis.axison]
    assert len(found) == len(names)
    assert not any(one.overlaps(other) for one, other in combinations(found, 2))
    assert not is_cut(figure)


def test_a_row_without_epochs_is_a_line_and_no_point_at_epoch_1():
    panel, *_ = results.curves({"linear": [run([4], "linear", k) for k in (1, 2)]}, "").axes
    (line,) = panel.lines
    assert list(line.get_xdata()) == [0, 1]
    assert len(set(line.get_ydata())) == 1
    assert panel.get_xlabel() == "no epochs"
    assert len(panel.get_xticks()) == 0


def test_clips_are_counted_once_however_many_seeds_there_are():
    one, three = ([run([6], seed=seed) for seed in seeds] for seeds in ([1], [1, 2, 3]))
    assert texts(results.confusion(three, RULE, "")) == texts(results.confusion(one, RULE, ""))
    bars = [
        [bar.get_height() for bar in results.reliability(runs, RULE, "").axes[1].patches]
        for runs in (one, three)
    ]
    assert bars[0] == pytest.approx(bars[1])
    assert sum(bars[0]) == 32


def test_the_confusion_figure_has_shares_and_counts():
    found = texts(results.confusion([run([6])], RULE, ""))
    # each of four actors has one clip an emotion, and the first six emotions are right
    assert found.count("100 %\n4") == 8
    assert not any(text.startswith("0 %") for text in found)  # fields without clips are empty


def sizes(*accuracies):
    """Rows of equal size, and so close together as points can be."""
    names = [name for name in ROWS if ROWS[name].alias is None][: len(accuracies)]
    runs = by_row(
        *[
            run([n], name, fold)
            for name, n in zip(names, accuracies, strict=True)
            for fold in (1, 2)
        ]
    )
    return tables.table({name: find(name) for name in names}, paper(runs))


def test_accuracy_and_sizes_stand_beside_every_system_s_name():
    figure = results.accuracy_against_size(sizes(6, 8, 7).assign(forward_gflops=7.7e-6), "title")
    names = [find(name).label for name in ("audio", "averaging", "video")]  # 8, 7, 6 clips right
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == names
    assert [axis.get_xlabel().split("\n")[0] for axis in figure.axes] == [
        "accuracy after the last epoch, % of clips",
        "parameters",
        "operations",
    ]
    heights = [line.get_ydata() for line in figure.axes[1].lines if len(line.get_ydata())]
    assert sorted(np.concatenate(heights)) == [0, 1, 2]
    assert {"1 k", "10 k"} & {label.get_text() for label in figure.axes[2].get_xticklabels()}
    assert not is_cut(figure)


def test_wins_are_signs_and_colours_and_words():
    figure = results.wins(
        pd.DataFrame(
            [[np.nan, 1, 0], [-1, np.nan, 0], [0, 0, np.nan]],
            index=(names := ["video", "audio", "cfn_sr"]),
            columns=names,
        ),
        "title",
    )
    (axis,) = figure.axes
    assert [(text.get_position(), text.get_text()) for text in axis.texts if text.get_text()] == [
        ((1, 0), "+"),
        ((0, 1), "\N{MINUS SIGN}"),
    ]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["\N{MINUS SIGN} left is worse", "no difference found", "+ left is better"]


def test_faces_found_are_shown_by_person():
    people = range(1001, 1092)
    faces = pd.DataFrame({"actor": people, "n_looks": 20, "n_seen": np.arange(91) % 21})
    figure = examples.found_faces(faces, "cremad")
    (axis,) = figure.axes
    assert [bar.get_height() for bar in axis.patches] == [5 * (i % 21) for i in range(91)]
    assert [label.get_text() for label in axis.get_xticklabels()] == list(map(str, people))
    assert figure.get_suptitle() == "Where the tracker found a face, CREMA-D"
    assert not is_cut(figure)


@pytest.mark.parametrize("channels", [1, 3])
def test_faces_and_sound_show_the_same_clips_in_seconds_of_the_clip(channels):
    frames = np.zeros((192, 30, 8, 8, channels), np.uint8)
    shown = examples.faces(frames, index(), 3, "synthetic")
    labels = [text for text in texts(shown) if "actor" in text]
    assert shown.get_suptitle() == "Faces, synthetic control"
    mfcc = np.random.default_rng(0).normal(size=(192, 13, 212))
    heard = examples.sound(mfcc, index(), 3, Preprocess(), "synthetic")
    assert [axis.get_title("left") for axis in heard.axes[:3]] == [
        label.replace("\n", ", ") for label in labels
    ]
    low, high = heard.axes[0].get_xlim()
    step_s = 512 / 44_100
    assert low == pytest.approx(0.5 - step_s / 2)
    assert high == pytest.approx(0.5 + 211.5 * step_s)
    for figure in (shown, heard):
        assert not is_cut(figure)


def test_the_clips_shown_differ_in_actor_and_emotion_and_span_the_index():
    clips = index()
    chosen = clips.iloc[examples.spread(clips, 5)]
    assert chosen["actor"].nunique() == chosen["emotion"].nunique() == 5
    assert {1, 24} <= set(chosen["actor"])
    assert examples.spread(clips, 5) == examples.spread(clips, 5)
    assert examples.spread(clips.head(3), 9) == [0, 1, 2]


@pytest.mark.parametrize("n_epochs", [1, 3, 20, 70])
def test_epochs_are_counted_from_1(n_epochs):
    (axis,) = results.curves({"cfn_sr": [run([4] * n_epochs)]}, "title").axes
    ticks = np.array(axis.get_xticks())
    assert ticks[0] == 1
    assert (ticks % 1 == 0).all()


@pytest.mark.parametrize("shown", ["khaki", "white", "navy", "#767676", "gold", "black"])
def test_ink_is_what_stands_out_more(shown):
    def luminance(colour):
        channels = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in matplotlib.colors.to_rgb(colour)
        ]
        return 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2]

    contrast = {
        ink: (max(pair) + 0.05) / (min(pair) + 0.05)
        for ink in ("black", "white")
        for pair in [(luminance(ink), luminance(shown))]
    }
    assert style.ink(shown) == max(contrast, key=contrast.get)


def test_numbers_in_a_heatmap_have_the_ink_of_their_own_cell():
    runs = by_row(run([8], "video", 1), run([1], "audio", 2), run([4], "cfn_sr", 1))
    axis = results.fold_heatmap(runs, RULE, "title").axes[0]
    found = {text.get_text(): text.get_color() for text in axis.texts}
    assert found["100.0"] == "black"  # cividis ends in yellow
    assert found["12.5"] == "white"
    assert len(found) == 3  # an empty cell has no number


def test_a_point_of_few_clips_is_smaller_in_the_reliability_diagram():
    sure, unsure = run([8]), run([8], fold=2)
    logits = unsure.test.logits.copy()
    logits[:, :3] = logits[:, :3] * 0.2  # three clips of 64 are of another confidence
    unsure = replace(unsure, test=replace(unsure.test, logits=logits))
    (points,) = results.reliability([sure, unsure], RULE, "title").axes[0].collections
    small, large = sorted(points.get_sizes())
    assert small / large == pytest.approx(3 / 61)


def write_all(folder):
    """Save figures of every kind, and return their hashes."""
    runs = every_row(folds=[1, 2])
    shown = {name: runs[name] for name in ("video", "audio", "cfn_sr")}
    for name, figure in drawn_from(shown, CONTROL).items():
        style.save(figure, folder / name)
    mfcc = np.random.default_rng(0).normal(size=(192, 13, 212))
    style.save(examples.sound(mfcc, index(), 2, Preprocess(), "synthetic"), folder / "sound")
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_another_process_writes_the_same_bytes(tmp_path):
    (here := tmp_path / "here").mkdir()
    (there := tmp_path / "there").mkdir()
    code = (
        "import json, pathlib, sys; sys.path[:0] = sys.argv[2:]; import test_results;"
        "print(json.dumps(test_results.write_all(pathlib.Path(sys.argv[1]))))"
    )
    here_and_beside = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "evaluation")]
    command = [sys.executable, "-c", code, str(there), *here_and_beside]
    found = subprocess.run(command, capture_output=True, check=True).stdout
    expected = write_all(here)
    assert len(expected) == 16
    assert json.loads(found) == expected


def test_a_saved_figure_has_neither_date_nor_version(tmp_path):
    style.save(results.reliability([run([4])], RULE, "title"), tmp_path / "figure")
    svg = (tmp_path / "figure.svg").read_text()
    assert "dc:date" not in svg
    assert "dc:creator" not in svg
    assert b"Software" not in (tmp_path / "figure.png").read_bytes()


def test_a_picture_of_few_colours_has_a_palette_and_a_photograph_has_not(tmp_path):
    plot = style.save(results.reliability([run([4])], RULE, "title"), tmp_path / "plot")
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.mode == "P"
    noise = np.random.default_rng(0).integers(0, 256, (2, 6, 64, 64, 3), dtype=np.uint8)
    style.save(examples.faces(noise, index().head(2), 2, "synthetic"), tmp_path / "faces")
    with Image.open(tmp_path / "faces.png") as picture:
        assert picture.mode == "RGB"
    assert str(tmp_path) not in repr(plot)
    content, metadata = plot._repr_png_()
    assert content == (tmp_path / "plot.png").read_bytes()
    assert metadata["width"] == 6 * 110


def test_a_dollar_in_a_title_is_no_mathematics():
    figure = plt.figure()
    style.entitle(figure, "Ba$$in.mp4 and $x^2$.mp4")
    figure.canvas.draw()
    assert figure.get_suptitle() == "Ba$$in.mp4 and $x^2$.mp4"
    plt.close(figure)
