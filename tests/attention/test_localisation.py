"""Do maps point where the control's generator put the cue? And what notebook 04 draws."""

import json
import threading
import time
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPOSITORY, SMALL, TAKES, train_row
from test_maps import N_CLIPS, made
from test_results import is_cut
from test_runs import INFO

from cfnsr import InputError, params
from cfnsr.attention.deletion import Curves
from cfnsr.attention.localisation import (
    face_cues,
    face_overlap,
    hit_rate,
    hits,
    lift,
    voice_cues,
    voice_overlap,
)
from cfnsr.attention.maps import Gate, read_maps
from cfnsr.attention.survey import Effect, Look, Study, Survey, _Cues, _in_threads, located_maps
from cfnsr.data import preprocess, sources
from cfnsr.data.clips import load_clips
from cfnsr.data.corpora.ravdess import EMOTIONS, stem
from cfnsr.data.landmarks import read_landmarks
from cfnsr.data.synthetic import recording
from cfnsr.data.synthetic.design import cue, takes
from cfnsr.data.video import choose_frames
from cfnsr.figures import attention_effects, attention_maps
from cfnsr.models.registry import find
from cfnsr.params import Clips, Params
from cfnsr.training import trained
from cfnsr.training.runs import run_folder

FOUR = np.arange(4).reshape(1, 2, 2).repeat(3, axis=1).repeat(3, axis=2)  # of 1 frame, 6 x 6


def test_the_face_cue_covers_brows_eyes_and_mouth_and_not_the_chin(synthetic_root):
    settings = SMALL.model_copy(update={"frame_size": 96})
    points = read_landmarks(synthetic_root / "landmarks" / f"{stem(TAKES[0])}.csv").points
    cues = face_cues(points, settings)
    masks = cues["upper"] | cues["lower"]
    assert masks.shape == (SMALL.n_frames, 96, 96)
    chosen = points[choose_frames(len(points), settings)]
    for mask, face in zip(masks, chosen, strict=True):
        low = np.floor(face.min(axis=0))
        x, y = ((face - low) * 96 / (np.ceil(face.max(axis=0)) - low)).clip(0, 95).astype(int).T
        assert mask[y[17:27], x[17:27]].all()
        assert mask[y[36:68], x[36:68]].all()
        assert not mask[y[5:12], x[5:12]].any()
        assert not mask[y[28], x[28]]
        assert 0.05 < mask.mean() < 0.6


def test_the_voice_cue_is_the_share_of_a_token_in_the_stretch():
    shown = cue(TAKES[0], Clips())
    times_s = np.array([shown.voice_start_s - 1, shown.voice_start_s, shown.voice_start_s + 0.4, 9])
    assert voice_cues([TAKES[0]], Clips(), times_s, 0.2)[0] == pytest.approx([0, 0.5, 1, 0])


def test_overlap_with_a_face_worked_by_hand():
    """The cue fills the first of four quarters, and half of the second."""
    cues = np.zeros((2, 1, 6, 6), bool)
    cues[:, 0, :3, :3] = True
    cues[:, 0, 0:3, 3:] = np.array([1, 1, 0, 1, 0, 1, 0, 1, 1]).reshape(3, 3) > 0
    share = np.array([1, 6 / 9, 0, 0])
    maps = np.array([[1.0, 0, 0, 0], [0.0, 0.5, 0.5, 0]])
    found = face_overlap(maps, cues, FOUR)
    np.testing.assert_allclose(found["found"], [1, 3 / 9])
    np.testing.assert_allclose(found["by_chance"], share.mean())


def test_a_map_hits_if_it_prefers_the_named_part_for_its_size():
    # The named part fills half of the first quarter, the other the whole of the last.
    named, other = np.zeros((2, 3, 1, 6, 6), bool)
    named[:, 0, :3, :1] = True
    other[:, 0, 3:, 3:] = True
    maps = np.array([[0.6, 0, 0, 0.4], [0.4, 0, 0, 0.6], [0.25] * 4])
    found = hits(face_overlap(maps, named, FOUR), face_overlap(maps, other, FOUR))
    assert found.tolist() == [True, False, False]
    rate = hit_rate(
        pd.DataFrame(
            {"hit": np.tile([True, True, True, False], 6), "actor": np.repeat(np.arange(6), 4)}
        )
    )
    assert rate["hit_pct"] == rate["ci_low_pct"] == rate["ci_high_pct"] == 75


def test_where_the_voice_points_its_part_alone_is_the_cue(tmp_path):
    settings = Params(data="pointing")
    clips, take = settings.pointing.clips, takes(settings.pointing.clips)[0]
    recording.write_clip(tmp_path, take, clips)
    index = pd.DataFrame({"clip": [take.clip], "actor": [take.actor]})
    study = SimpleNamespace(settings=settings, clips=SimpleNamespace(index=index))
    named, other = _Cues(study, tmp_path)._face(0)
    landmarks = read_landmarks(tmp_path / "landmarks" / f"{stem(take)}.csv").points
    part = cue(take, clips).points_to
    cues = face_cues(landmarks, settings.pointing.preprocess)
    np.testing.assert_array_equal(named, cues.pop(part))
    np.testing.assert_array_equal(other, *cues.values())
    rows = named.any(axis=(0, 2)).nonzero()[0]
    assert (rows.max() < 120) == (part == "upper")


def test_overlap_with_a_voice_is_compared_with_the_other_clips_stretches():
    cues = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    maps = np.array([[1.0, 0, 0], [0.2, 0.4, 0.4], [0, 1.0, 0]])
    found = voice_overlap(maps, cues)
    np.testing.assert_allclose(found["found"], [1, 0.4, 0])
    np.testing.assert_allclose(found["by_chance"], [0, 0.3, 0.5])
    with pytest.raises(InputError, match="second clip"):
        voice_overlap(maps[:1], cues[:1])


def test_a_map_that_likes_the_same_moments_in_every_clip_is_at_chance():
    rng = np.random.default_rng(0)
    start = rng.integers(0, 16, 400)
    cues = (np.arange(26) >= start[:, None]) & (np.arange(26) < start[:, None] + 10)
    middle = np.tile(np.exp(-((np.arange(26) - 12) ** 2) / 20), (400, 1))
    actor = np.arange(400) % 20
    liking = voice_overlap(middle, cues.astype(float)).assign(actor=actor)
    assert lift(liking)["lift"] == pytest.approx(1)
    knowing = lift(voice_overlap(cues + 0.1, cues.astype(float)).assign(actor=actor))
    assert knowing["against_chance"] == "above"
    assert knowing["ci_low"] > 1.2


def test_the_lift_is_a_ratio_of_sums_with_a_verdict_by_its_interval():
    actor = np.repeat(np.arange(10), 5)
    for value, verdict in ((0.6, "above"), (0.4, "below")):
        found = lift(pd.DataFrame({"found": value, "by_chance": 0.5, "actor": actor}))
        assert found["lift"] == pytest.approx(value / 0.5)
        assert found["against_chance"] == verdict
    one = lift(pd.DataFrame({"found": np.ones(3), "by_chance": 1.0, "actor": 1}))
    assert one["against_chance"] == ""


@cache
def random_look(row):
    """A `Look` at a network with random weights and made-up clips. Read only."""
    network = made(row)
    network = replace(network, info={"row": row, "fold": 1, "seed": 0})
    rng = np.random.default_rng(0)
    size, n = network.preprocess.frame_size, network.preprocess.n_frames
    pictures = rng.integers(0, 256, (N_CLIPS, n, size, size, 3), dtype=np.uint8)
    sound = rng.normal(2, 3, (N_CLIPS, 13, 212)).astype(np.float32)
    takes = TAKES[:N_CLIPS]
    index = pd.DataFrame(
        {
            "clip": [take.clip for take in takes],
            "actor": [take.actor for take in takes],
            "emotion": [EMOTIONS[take.emotion_index] for take in takes],
        }
    )
    arrays = {"frames": pictures, "mfcc": sound}
    view = network.view(arrays)
    maps = read_maps(view, arrays)
    located = located_maps(view, arrays, maps)
    return Look(network, np.arange(N_CLIPS), index, arrays, maps, located)


def look(row, data="synthetic"):
    settings = Params(data=data).model_copy(update={"fold": 1})
    return Study(settings, None, {row: []}, 0), random_look(row)


def shortened(look, n_frames):
    """Its face over the first frames alone, so that a figure has as few pictures."""
    located = [
        replace(map_, regions=map_.regions[:n_frames]) if map_.modality == "video" else map_
        for map_ in look.located
    ]
    return replace(look, located=located)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("row", ["cfn_sr", "video_to_audio", "video", "audio", "mmtm"])
def test_every_figure_of_one_run_names_its_setting_and_cuts_no_text(row):
    study, at = look(row)
    drawn = [
        attention_maps.timeline(study, at, None, "Title"),
        attention_maps.heads(study, at, "Title"),
        attention_maps.face(study, at, "Title"),
        attention_maps.by_emotion(study, at, "Title"),
    ]
    for figure in drawn:
        title = " ".join(figure.get_suptitle().split())
        assert title.startswith("Title")
        assert "synthetic control, the paper's split, fold 1" in title
        assert not is_cut(figure)


def test_the_own_map_goes_before_grad_cam_and_a_missing_one_is_a_sentence():
    names = {row: [map_.name for map_ in look(row)[1].located] for row in ("cfn_sr", "mmtm")}
    assert names["cfn_sr"] == [
        "cross-modal, face",
        "Grad-CAM, face",
        "rollout, voice",
        "Grad-CAM, voice",
    ]
    assert names["mmtm"] == ["Grad-CAM, face", "Grad-CAM, voice"]
    study, at = look("audio")
    figure = attention_maps.face(study, at, "Title")
    assert "sees no picture" in figure.axes[0].texts[0].get_text()


def test_no_picture_of_a_person_is_drawn_unless_asked_for(tmp_path, monkeypatch):
    def draws_pictures(draw, *args, **options):
        shown = []
        monkeypatch.setattr(
            attention_maps,
            "_overlay",
            lambda _, picture, *__: shown.append(picture is not None),
        )
        draw(*args, **options)
        (same,) = set(shown)
        return same

    for data, is_drawn in (("synthetic", True), ("ravdess", False), ("ravdess_landmarks", False)):
        study, at = look("cfn_sr", data)
        at = shortened(at, 1)
        assert draws_pictures(attention_maps.face, study, at, "T") is is_drawn
        path = tmp_path / "map.gif"
        assert draws_pictures(attention_maps.animation, study, at, "T", path) is is_drawn
    assert draws_pictures(attention_maps.face, study, at, "T", overlays=True) is True


@pytest.mark.parametrize("row", ["cfn_sr", "audio"])
def test_the_animation_is_small_and_equal_input_gives_equal_bytes(row, tmp_path):
    study, at = look(row)
    at = shortened(at, 2)
    if row == "cfn_sr":
        at = replace(at, arrays=at.arrays | {"frames": at.arrays["frames"] // 64 * 64})
    paths = [tmp_path / "one.gif", tmp_path / "two.gif"]
    for path in paths:
        attention_maps.animation(study, at, "Title", path)
    content = paths[0].read_bytes()
    assert content == paths[1].read_bytes()
    assert content[:3] == b"GIF"
    assert len(content) < 200_000


def reliance_table(rows):
    conditions = [("intact", np.nan)]
    for row in rows:
        if row != "audio":
            conditions += [("video silenced", np.nan), ("frames dropped", 25.0)]
        if row != "video":
            conditions += [("audio swapped", np.nan), ("audio noise", 20.0), ("audio noise", -10.0)]
    lines = [
        {"row": row, "label": find(row).label, "condition": name, "level": level}
        | dict.fromkeys(("accuracy_pct", "ci_low_pct", "ci_high_pct"), 50.0)
        for row in rows
        for name, level in dict.fromkeys(conditions)
    ]
    return pd.DataFrame(lines)


def reliance_of_cfn_sr(monkeypatch):
    monkeypatch.setattr(Study, "extent", "40 of 300 test clips")
    survey = Survey(reliance_table(["cfn_sr"]), *[pd.DataFrame()] * 2, {}, [])
    return attention_effects.reliance(Study(Params(), None, {}, 0), "cfn_sr", survey, "Title")


def curves_of(names):
    step = np.linspace(0, 1, 11)
    values = np.tile(1 - step[:, None], (1, 4))
    lines = [
        {"map": name, "area": area, "mean": 0.1, "ci_low": 0.05, "ci_high": 0.2}
        for name in names
        for area in ("deletion", "insertion")
    ]
    curves = {name: Curves(step, values, values, values) for name in names}
    return Effect(curves, pd.DataFrame(lines))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("rows", "names"),
    [
        (["audio"], ["Grad-CAM, voice"]),
        (["video"], ["Grad-CAM, face"]),
        (["cfn_sr"], ["cross-modal, face", "Grad-CAM, face", "rollout, voice", "Grad-CAM, voice"]),
        (["video", "audio", "mmtm", "cfn_sr"], list(attention_effects._KINDS)),
    ],
)
def test_every_figure_of_all_runs_names_its_setting_and_cuts_no_text(rows, names, monkeypatch):
    study, _ = look(rows[-1])
    located = [
        {"row": row, "label": find(row).label, "map": name, "lift": 1.2, "ci_low": 1, "ci_high": 2}
        for row in rows
        for name in names
    ]
    gates = {find(row).label: look(row)[1].maps.gates for row in rows if row == "mmtm"}
    survey = Survey(reliance_table(rows), pd.DataFrame(located), pd.DataFrame(), gates, [1])
    monkeypatch.setattr(Study, "extent", "40 of 300 test clips")
    drawn = [
        attention_effects.reliance(study, rows[-1], survey, "Title"),
        attention_effects.localisation(study, survey, "Title"),
        attention_effects.gates(study, survey, "Title"),
        attention_effects.deletion(study, rows[-1], curves_of(names), "Title"),
        attention_effects.deletion(study, rows[-1], Effect({}, pd.DataFrame()), "Title"),
        attention_effects.localisation(
            study,
            Survey(survey.reliance, pd.DataFrame(located[:0]), pd.DataFrame(), {}, []),
            "Title",
        ),
    ]
    for k, figure in enumerate(drawn):
        title = " ".join(figure.get_suptitle().split())
        assert ("40 of 300 test clips" in title) == (k in (0, 1, 3))
        assert "synthetic control, the paper's split, fold 1" in title
        assert not is_cut(figure)


def test_rows_may_have_different_numbers_of_gates():
    gate = Gate("layer3", "face", np.full((2, 4), 0.5), 0.5)
    gates = {"MSAF": (gate, gate), "Other": (gate,)}
    survey = Survey(*[pd.DataFrame()] * 3, gates, [1])
    figure = attention_effects.gates(Study(Params(), None, {}, 0), survey, "Title")
    assert len(figure.axes) == 3
    assert [bool(axis.get_xlabel()) for axis in figure.axes] == [False, True, True]


def test_the_gates_title_names_the_fold_and_the_clips_that_they_are_of():
    study, at = look("mmtm")
    study = replace(study, settings=study.settings.model_copy(update={"fold": "all"}))
    survey = Survey(*[pd.DataFrame()] * 3, {"MMTM": at.maps.gates}, [2])
    title = attention_effects.gates(study, survey, "Title").get_suptitle()
    assert title.endswith(f"the paper's split, fold 2; {N_CLIPS} test clips")


def test_a_study_says_how_many_of_its_test_clips_are_looked_at(tmp_path):
    folders = []
    for fold, actors in ((1, [1, 2]), (2, [3])):
        folders.append(empty_run(tmp_path, "video", fold, 5))
        info = INFO | {"row": "video", "fold": fold, "actors": {"test": actors}}
        (folders[-1] / "run.json").write_text(json.dumps(info))
    clips = SimpleNamespace(
        of_actors=lambda of: np.array([10 * a + i for a in of for i in range(4)])
    )
    few = Study(Params(), clips, {"video": folders}, 6)
    assert few.extent == "6 of 12 test clips"
    assert replace(few, n_clips=0).extent == "all 12 test clips"


def test_the_seeds_of_a_fold_look_at_the_same_clips_and_at_no_fewer(tmp_path):
    clips = SimpleNamespace(of_actors=lambda of: np.arange(240))
    seeds = [empty_run(tmp_path, "video", 1, seed) for seed in (5, 6, 7)]
    info = INFO | {"row": "video", "fold": 1, "actors": {"test": [1]}}
    for folder in seeds:
        (folder / "run.json").write_text(json.dumps(info))
    chosen = [Study(Params(), clips, {"video": of}, 12).chosen(info) for of in (seeds[:1], seeds)]
    assert len(chosen[0]) == 12
    assert chosen[0].tolist() == chosen[1].tolist()


def test_labels_above_the_reliance_table_begin_over_their_column(monkeypatch):
    axis = reliance_of_cfn_sr(monkeypatch).axes[0]
    above = [tick.label2 for tick in axis.xaxis.get_major_ticks()]
    assert [label.get_text() for label in above][-1] == "noise, \N{MINUS SIGN}10 dB"
    assert {label.get_ha() for label in above} == {"left"}
    assert {label.get_rotation_mode() for label in above} == {"anchor"}


def test_sweeps_have_ticks_at_the_measured_places_alone(monkeypatch):
    _, noise, dropped = reliance_of_cfn_sr(monkeypatch).axes
    assert sorted(noise.get_xticks()) == [-10, 20]
    assert dropped.get_xticks().tolist() == [25]


def test_the_ends_of_a_colour_bar_say_what_they_stand_for():
    maps = np.ones((1, 2, 4, 4))
    maps[0, 0, :2, :2] = 3.8
    bar = attention_maps.on_frames(None, maps, ["clip"], "Title").axes[-1]
    labels = [label.get_text() for label in bar.get_yticklabels()]
    assert (labels[0], labels[-1]) == ("≤ 0.26", "≥ 3.8")
    assert {"0.5", "1", "2"} <= set(labels)
    flat = attention_maps.on_frames(None, np.ones((1, 2, 4, 4)), ["clip"], "Title").axes[-1]
    assert [label.get_text() for label in flat.get_yticklabels()] == ["≤ 0.8", "1", "≥ 1.2"]


def empty_run(root, row, fold, seed):
    folder = run_folder(root, row, fold, seed)
    folder.mkdir(parents=True)
    return folder


def test_the_run_to_draw_is_the_one_asked_for_or_the_next_best(tmp_path):
    video = empty_run(tmp_path, "video", 2, 1234)
    cfn_sr = [empty_run(tmp_path, "cfn_sr", fold, 1234) for fold in (2, 4)]
    study = Study.open(Params(), None, tmp_path, 0)
    assert list(study.folders) == ["video", "cfn_sr"]
    assert study.choose("", 0, 0) == cfn_sr[0]
    assert study.choose("cfn_sr", 4, 0) == cfn_sr[1]
    assert study.choose("audio_to_video", 0, 0) == cfn_sr[0]  # the same system under another name
    assert study.choose("video", 2, 1234) == video
    alone = Study.open(Params(row="video"), None, tmp_path, 0)
    assert alone.choose("", 0, 0) == video
    with pytest.raises(InputError, match=r"cfn_sr has no run of fold 3.*fold_2/seed_1234"):
        study.choose("cfn_sr", 3, 0)
    with pytest.raises(InputError, match="expected all, hybrid, switches or one of"):
        study.choose("cfnsr", 0, 0)
    with pytest.raises(InputError, match="no runs in"):
        Study.open(Params(row="erann"), None, tmp_path, 0)


@pytest.mark.slow
def test_with_16_positions_the_maps_lie_on_the_cue_better_than_chance_and_untrained(tmp_path):
    """On the default control's 2 x 2 positions, each sees the whole face; here it does not."""
    settings = params.load(REPOSITORY / "params.yaml")
    source = settings.synthetic
    finer = source.preprocess.model_copy(update={"frame_size": 112, "n_frames": 4})
    schedules = {"fusion": source.training.fusion.model_copy(update={"n_epochs": 6})}
    quiet = source.training.model_copy(update=schedules)
    source = source.model_copy(update={"preprocess": finer, "training": quiet, "root": None})
    settings = settings.model_copy(update={"data": "synthetic", "synthetic": source, "fold": 1})
    root = sources.provide(settings, tmp_path)
    preprocess.preprocess(
        sources.manifest(root, Params(data="synthetic")),
        root,
        tmp_path / "arrays",
        settings,
        finer,
        tmp_path / "scratch",
    )
    clips = load_clips(tmp_path / "arrays")
    runs = tmp_path / "runs"
    for row in ("audio", "video", "cfn_sr", "video_to_audio"):
        train_row(row, 1, settings, clips, runs)
    lifts = _lifts(clips, root, runs, settings)
    for name in ("cross-modal, face", "Grad-CAM, face", "Grad-CAM, voice"):
        found, fresh = lifts["cfn_sr", name], lifts["cfn_sr, untrained", name]
        assert found["against_chance"] == "above", (name, found)
        assert found["lift"] > fresh["lift"], name
    assert lifts["video_to_audio", "cross-modal, voice"]["against_chance"] == "above"


def _lifts(clips, root, runs, settings):
    torch.set_num_threads(1)
    cues = _Cues(Study(settings, clips, {}, 0), root)
    found = {}
    for row in ("cfn_sr", "video_to_audio"):
        network = trained.load_trained(run_folder(runs, row, 1, settings.seeds[0]), "cpu")
        test = network.test_positions(clips)
        for name, model in ((row, network), (f"{row}, untrained", network.untrained())):
            arrays = model.arrays(clips, test)
            view = model.view(arrays)
            for map_ in located_maps(view, arrays, read_maps(view, arrays)):
                found[name, map_.name] = lift(cues.overlap(model, map_, test))
    return found


def test_threads_answer_in_the_order_of_the_runs_and_an_error_ends_them(monkeypatch):
    monkeypatch.setattr("cfnsr.attention.survey.cpu_count", lambda: 64)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    begun, threads = [], set()

    def look(run):
        begun.append(run)
        threads.add(threading.get_ident())
        time.sleep(0.2 if run == 0 else 0.01)  # the first is the last to answer
        return 100 // (5 - run)

    assert _in_threads(look, range(5), "runs") == [20, 25, 33, 50, 100]
    assert 1 < len(threads) <= 4
    begun.clear()
    with pytest.raises(ZeroDivisionError):
        _in_threads(look, [5, *[1] * 100], "runs")
    assert len(begun) < 101
