import csv
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import toy_corpus
from conftest import REPOSITORY, SMALL, alone, train_row

from cfnsr import InputError
from cfnsr.data import corpora, landmark_detection, preprocess, sources
from cfnsr.data.clips import load_clips
from cfnsr.data.corpora import CORPORA, baum1s
from cfnsr.data.landmarks import read_landmarks
from cfnsr.data.synthetic import recording
from cfnsr.data.synthetic.design import takes
from cfnsr.evaluation import predictions, scores, tables
from cfnsr.params import Clips, Model, Params, SyntheticParams, Training, load

OTHERS = [name for name in CORPORA if name != corpora.DEFAULT]


@pytest.fixture
def toy(monkeypatch):
    """A corpus that this package does not know, in one file."""
    monkeypatch.setitem(CORPORA, "toy", toy_corpus.CORPUS)


@pytest.fixture(params=CORPORA)
def corpus(request):
    return CORPORA[request.param]


@pytest.fixture
def imitated(tmp_path, monkeypatch):
    """A function that draws a take an emotion of three people of a corpus; root and parameters.

    Of fold 1 they test, choose the epoch and train.
    """

    missing = recording._missing

    def imitate(name, **clips):
        found = CORPORA[name]
        drawn = Clips(corpus=name, **clips)
        people = [found.groups[0][0], found.groups[1][0], found.groups[-1][-1]]
        kinds = {(take.actor, take.emotion): take for take in reversed(takes(drawn))}
        few = {take for take in kinds.values() if take.actor in people}
        monkeypatch.setattr(
            recording, "_missing", lambda *args: [take for take in missing(*args) if take in few]
        )
        root = tmp_path / name
        with alone():
            recording.write_dataset(root, drawn)
        section = SyntheticParams(
            clips=drawn,
            preprocess=SMALL,
            model=Model(audio_channels=8, n_heads=2),
            training=Training.model_validate({"audio": {"n_epochs": 2, "batch_size": 4}}),
        )
        asked = {"protocol": "nested", "fold_stages": found.folds("nested"), "seeds": (1,)}
        return root, Params(synthetic=section, **asked)

    return imitate


def test_a_made_up_corpus_takes_one_file_and_no_line_elsewhere(tmp_path):
    shutil.copytree(REPOSITORY / "cfnsr", tmp_path / "cfnsr")
    shutil.copy(toy_corpus.__file__, tmp_path / "cfnsr/data/corpora/toy.py")
    film = tmp_path / "films/anna/joy.mp4"
    film.parent.mkdir(parents=True)
    film.touch()
    (tmp_path / "params.yaml").write_text("data: toy\ntoy: {root: films}")
    subprocess.run(
        [sys.executable, "-m", "cfnsr", "dataset"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        check=True,
    )
    with (tmp_path / "build/toy/manifest.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert (line["media"], line["landmarks"]) == ("anna/joy.mp4", "landmarks/anna-joy.csv")


def test_no_other_code_names_a_corpus_but_the_papers():
    names = re.compile(r"crema|enterface|\brml|baum", re.IGNORECASE)
    for path in (REPOSITORY / "cfnsr").rglob("*.py"):
        if "corpora" not in path.parts:
            assert not names.search(path.read_text()), path


@pytest.mark.parametrize("name", [*OTHERS, "toy"])
def test_a_corpus_is_one_file_of_at_most_80_lines(name):
    source = toy_corpus.__file__ if name == "toy" else f"cfnsr/data/corpora/{name}.py"
    path = REPOSITORY / source
    assert len(path.read_text().splitlines()) <= 80


def test_every_take_has_a_clip_and_a_path_of_its_own_which_is_read_back(corpus, tmp_path):
    for name, text in corpus.tables(corpus.takes).items():
        (tmp_path / name).write_text(text)
    assert all(corpus.read(tmp_path / corpus.path(take)) == take for take in corpus.takes)
    assert all(corpus.uses(tmp_path / corpus.path(take)) for take in corpus.takes[:100])
    for of in (corpus.path, lambda take: take.clip, corpus.landmarks_name):
        assert len(set(map(of, corpus.takes))) == len(corpus.takes)
    assert {take.emotion_index for take in corpus.takes} == set(range(len(corpus.emotions)))
    assert {corpus.path(take).suffix for take in corpus.takes} <= set(corpus.suffixes)


def test_folds_share_out_people_and_women_alike(corpus):
    assert sorted(corpus.people) == sorted({take.actor for take in corpus.takes})
    assert len(set(corpus.people)) == len(corpus.people)
    for part in (corpus.people, corpus.women):
        sizes = [len(set(part).intersection(group)) for group in corpus.groups]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("protocol", ["paper", "nested"])
def test_everybody_has_one_role_in_a_fold(corpus, protocol):
    tested = []
    for fold in corpus.folds(protocol):
        split = corpus.split(fold, protocol)
        assert sorted([*split.training, *split.validation, *split.test]) == list(corpus.people)
        assert bool(split.validation) == (protocol == "nested")
        tested += split.test
    assert len(set(tested)) == len(tested)


def test_crema_d_has_the_7442_takes_of_its_distribution():
    counts = Counter(
        CORPORA["cremad"].emotions[take.emotion_index] for take in CORPORA["cremad"].takes
    )
    assert counts == dict.fromkeys(("angry", "disgust", "fearful", "happy", "sad"), 1271) | {
        "neutral": 1087
    }
    assert CORPORA["cremad"].chance_pct == pytest.approx(100 * 1271 / 7442)


@pytest.mark.parametrize(
    ("name", "path", "clip", "emotion"),
    [
        ("cremad", "AnyFolder/1091_wsi_neu_xx.mp4", "1091_WSI_NEU_XX", "neutral"),
        ("enterface05", "subject 12/fear/sentence 3/s11_fe_3.avi", "s12_fe_3", "fearful"),
        ("enterface05", "Subject-3/Anger/sentence-1/more/s_3_an_1.avi", "s3_an_1", "angry"),
        ("rml", "rml-2/s7/su11.avi", "s7_su11", "surprised"),
        ("rml", "S3/Mandarin/ha2.AVI", "s3_mandarin_ha2", "happy"),
    ],
)
def test_a_path_is_read_as_public_readers_of_the_corpus_describe_it(name, path, clip, emotion):
    take = CORPORA[name].read(Path("/data", path))
    assert (take.clip, CORPORA[name].emotions[take.emotion_index]) == (clip, emotion)


@pytest.mark.parametrize(
    ("name", "path", "expected"),
    [
        ("cremad", "VideoFlash/1092_IEO_ANG_HI.flv", "is not a CREMA-D name"),
        ("cremad", "VideoFlash/1001_IEO_ANG.flv", "is not a CREMA-D name"),
        ("enterface05", "subject 45/anger/sentence 1/s45_an_1.avi", "expected a path such as"),
        ("enterface05", "s1_an_1.avi", "expected a path such as"),
        ("rml", "s9/an1.avi", "is not an RML name"),
        ("rml", "s1/ne1.avi", "is not an RML name"),
    ],
)
def test_a_path_that_says_no_take_is_refused(name, path, expected):
    with pytest.raises(InputError, match=expected):
        CORPORA[name].read(Path("/data", path))


def test_the_uncut_films_of_enterface_are_passed_over():
    uses = CORPORA["enterface05"].uses
    assert [uses(Path(f"/d/subject {n}/fear/s{n}_fe.avi")) for n in (5, 6, 16)] == [
        True,
        False,
        True,
    ]


def test_the_emotions_of_baum_are_those_of_its_table(tmp_path):
    film = tmp_path / "BAUM1s_MP4 - All" / "s001" / "S001_010.mp4"
    with pytest.raises(InputError, match=r"save Annotations_BAUM1s\.xlsx as .*\.csv in"):
        baum1s.CORPUS.uses(film)
    lines = ["Subject;Clip Name;Emotion;Code", "1;S001_010;Happiness;8", "1;S001_011;Neutral;9"]
    (tmp_path / baum1s.TABLE).write_text("\n".join(lines))
    assert baum1s.CORPUS.emotions[baum1s.CORPUS.read(film).emotion_index] == "happy"
    neutral, unknown = (film.with_name(f"S001_0{n}.mp4") for n in (11, 12))
    assert not baum1s.CORPUS.uses(neutral)
    with pytest.raises(InputError, match="has no emotion for it"):
        baum1s.CORPUS.read(unknown)


@pytest.mark.parametrize("name", OTHERS)
def test_a_corpus_that_is_not_there_says_where_to_ask_for_it(name, tmp_path):
    params = load(REPOSITORY / "params.yaml").model_copy(update={"data": name})
    with pytest.raises(InputError, match=f"ask for it .*point {name}.root of params.yaml at"):
        sources.provide(params, tmp_path)


@pytest.mark.parametrize("name", [*OTHERS, "toy"])
def test_the_pipeline_runs_on_every_corpus(name, toy, imitated, tmp_path):
    root, params = imitated(name)
    found = CORPORA[name]
    manifest = sources.manifest(root, params)
    people = {found.read(root / media).actor for media in manifest["media"]}
    assert len(manifest) == len(found.emotions) * len(people)
    arrays = tmp_path / "arrays"
    with alone():
        preprocess.preprocess(manifest, root, arrays, params, SMALL, tmp_path / "scratch")
    clips = load_clips(arrays)
    assert clips.corpus is found
    runs = train_row("audio", 1, params, clips, tmp_path / "runs")
    assert runs[0].test.logits.shape[2] == len(found.emotions)
    predictions.write(runs, tmp_path / "nested")
    kept = predictions.read(tmp_path / "nested")
    assert kept[0].corpus is found
    assert set(kept[0].test.clips["actor"]) <= set(found.groups[0])
    confusion = scores.confusion(scores.outcomes(kept, "last epoch"), kept[0].corpus.emotions)
    assert tuple(confusion.index) == found.emotions
    assert confusion.to_numpy().sum() == len(kept[0].test.clips)
    table = tables.table({"audio": tables.ROWS["audio"]}, tables.by_protocol(kept))
    assert table["rule"].tolist() == [
        "best test epoch",
        "last epoch",
        "chosen on validation actors",
    ]
    assert f"synthetic control like {found.name}, split with validation actors" in tables.setting(
        params
    )
    assert (tables.ceilings(params)["ceiling_pct"] >= tables.ceilings(params)["chance_pct"]).all()


def test_landmarks_are_looked_for_where_no_table_comes_with_a_film(imitated, tmp_path, monkeypatch):
    root, params = imitated("rml")
    manifest = sources.manifest(root, params)
    path = root / manifest["landmarks"][0]
    points = read_landmarks(path).points
    expected = preprocess.preprocess_clip(root / manifest["media"][0], path, SMALL, False)
    path.unlink()  # of one clip alone: the others keep theirs
    manifest = sources.manifest(root, params)
    assert manifest["landmarks_sha256"][0] == ""

    def make():
        with alone():
            return preprocess.preprocess(
                manifest[:2], root, tmp_path / "arrays", params, SMALL, tmp_path / "scratch"
            )

    monkeypatch.setattr(landmark_detection, "is_installed", lambda: False)
    with pytest.raises(InputError, match=r"RML comes without landmarks: .*`make landmarks`"):
        make()
    monkeypatch.setattr(landmark_detection, "is_installed", lambda: True)
    found = landmark_detection.Found(points, (), 10, 9)
    monkeypatch.setattr(landmark_detection, "find_landmarks", lambda pictures, n: found)
    make()
    clips = load_clips(tmp_path / "arrays")
    assert len(clips.frames) == 2
    np.testing.assert_array_equal(clips.frames[0], expected["frames"])
    np.testing.assert_array_equal(clips.motion[0], expected["motion"])
    with (tmp_path / "arrays" / "faces.csv").open() as file:
        assert list(csv.DictReader(file)) == [
            {"actor": "1", "n_looks": "10", "n_seen": "9", "n_clips": "1"}
        ]


def test_what_is_recorded_of_a_corpus_is_found_again_and_nothing_is_of_the_papers():
    assert corpora.recorded(corpora.DEFAULT) == {}
    for name, each in CORPORA.items():
        assert corpora.of({"data": "x"} | corpora.recorded(name)) is each
    with pytest.raises(InputError, match="expected one of baum1s, cremad"):
        corpora.find("iemocap")
    assert pd.Series(Clips().model_dump())["corpus"] == corpora.DEFAULT
