"""Tests of `cfnsr.own_clip.predict` on networks trained, a little, by the training itself."""

import pickle
import re
import shutil
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import REPOSITORY, alone, cut, read_waveform, remux, train_row

from cfnsr import notebook
from cfnsr.__main__ import main
from cfnsr.data import face_detection, landmark_detection, preprocess, sources
from cfnsr.data.clips import load_clips
from cfnsr.data.corpora.ravdess import EMOTIONS
from cfnsr.data.synthetic import recording
from cfnsr.data.synthetic.design import takes
from cfnsr.models.registry import find
from cfnsr.own_clip import PUBLISHED, predict, reading
from cfnsr.params import Clips, Model, Params, Preprocess, Schedule, SyntheticParams, Training
from cfnsr.training.runs import run_folder

SCHEDULE = Schedule(n_epochs=2, batch_size=8)
SOURCE = SyntheticParams(
    preprocess=Preprocess(n_frames=5, frame_size=40),
    model=Model(stem_channels=4, cardinality=2, n_blocks=(1, 1, 1, 1), n_encoder_layers=1),
    training=Training(
        video=SCHEDULE,
        audio=SCHEDULE,
        fusion=SCHEDULE,
        erann=SCHEDULE,
        ours=SCHEDULE,
        precision="32-true",
    ),
)
STEADY = "hardly changes, as that of noise or a tone; do not rely on what the network says"
ROWS = (
    "video",
    "audio",
    "cfn_sr",
    "msaf",
    "erann",
    "linear",
    "motion_voice",
    "motion_voice_averaged",
    "video_to_audio",
)


@pytest.fixture(scope="module")
def clips_root(tmp_path_factory):
    """Clips of two actors who train and one who tests, under RAVDESS's names."""
    root = tmp_path_factory.mktemp("clips")
    for take in takes(Clips()):
        if take.actor in (1, 5, 6) and take.intensity == 1:
            recording.write_clip(root, take, Clips())
    return root


def trained_runs(root, folder, data, rows):
    params = Params(data=data, seeds=(1,), **{data: SOURCE})
    manifest = sources.manifest(root, Params(data="synthetic"))
    with alone():
        preprocess.preprocess(
            manifest, root, folder / "arrays", params, SOURCE.preprocess, folder / "scratch"
        )
    clips = load_clips(folder / "arrays")
    runs = folder / "runs" / data / "paper"
    for row in rows:
        seeds = (1, 2, 3) if row.startswith("motion_voice") else (1,)
        wanted = params.model_copy(update={"seeds": seeds})
        train_row(row, 1, wanted, clips, runs)
    return {row: run_folder(runs, row, 1, find(row).seeds((1,))[0]) for row in rows}


@pytest.fixture(scope="module")
def runs(clips_root, tmp_path_factory):
    """The runs of `ROWS`, below a folder with a params.yaml of its own."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / "params.yaml").write_text("seeds: [1]\nsynthetic: {clips: {}}\n")
    return trained_runs(clips_root, folder, "synthetic", ROWS)


@pytest.fixture(scope="module")
def drawn_runs(clips_root, tmp_path_factory):
    """Runs on faces that are drawn from landmarks."""
    folder = tmp_path_factory.mktemp("drawn")
    return trained_runs(clips_root, folder, "ravdess_landmarks", ("video", "audio", "cfn_sr"))


@pytest.fixture
def repository(runs, monkeypatch):
    folder = runs["cfn_sr"].parents[6]
    assert (folder / "params.yaml").exists()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def clip(clips_root):
    """The mp4 and landmarks of a test clip."""
    path = sorted(clips_root.glob("Actor_01/*.mp4"))[2]
    return path, clips_root / "landmarks" / f"{path.stem}.csv"


def check_against_training(run, clips_root, data, tolerance=2e-3):
    """A test clip's logits are those that the training stored, to float16."""
    stored = pd.read_csv(run / "test_clips.csv")["clip"]
    logits = np.load(run / "test_logits.npy")[-1].astype(np.float32)
    assert len(logits) == 8
    assert np.ptp(logits, axis=0).max() > 0.01  # clips differ, so that a mix-up would show
    for name, expected in zip(stored, logits, strict=True):
        (path,) = clips_root.glob(f"Actor_*/01-01-{name}.mp4")
        landmarks = clips_root / "landmarks" / f"{path.stem}.csv"
        prediction = predict.predict(path, run, landmarks)
        assert prediction.logits.shape == (1, 8)
        np.testing.assert_allclose(prediction.logits[0], expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("row", ROWS)
def test_a_clip_of_the_training_s_format_gets_the_logits_that_training_stored(
    runs, clips_root, row
):
    check_against_training(runs[row], clips_root, "synthetic")


def test_so_does_a_clip_whose_face_is_drawn_from_its_landmarks(drawn_runs, clips_root):
    check_against_training(drawn_runs["cfn_sr"], clips_root, "ravdess_landmarks")


def joined(paths, target):
    """Clips of the control one after the other, as one mp4 and one landmark csv."""
    with av.open(target.with_suffix(".mp4"), "w") as container:
        film = [frame for path in paths for frame in av.open(path).decode(video=0)]
        stream = container.add_stream("libx264", recording.FRAME_RATE_HZ)
        stream.width, stream.height, stream.pix_fmt = film[0].width, film[0].height, "yuv420p"
        sound = [read_waveform(path) for path in paths]
        voice = container.add_stream("aac", sound[0][1], layout="mono")
        for i, frame in enumerate(film):
            frame = av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, recording.FRAME_RATE_HZ)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        waveform = np.concatenate([waveform for waveform, _ in sound])[None].astype(np.float32)
        block = av.AudioFrame.from_ndarray(waveform, format="fltp", layout="mono")
        block.sample_rate = sound[0][1]
        container.mux(voice.encode(block))
        container.mux(voice.encode())
    tables = [pd.read_csv(path.parents[1] / "landmarks" / f"{path.stem}.csv") for path in paths]
    table = pd.concat(tables, ignore_index=True)
    table["frame"] = table.index + 1
    table.to_csv(target.with_suffix(".csv"), index=False)
    return target.with_suffix(".mp4"), target.with_suffix(".csv")


def test_a_long_clip_gets_a_timeline(repository, runs, clips_root, tmp_path, capsys):
    paths = sorted(clips_root.glob("Actor_01/*.mp4"))[:3]
    path, landmarks = joined(paths, tmp_path / "long")
    run = str(runs["cfn_sr"])
    arguments = ["predict", str(path), "--landmarks", str(landmarks), "--run", run]
    assert main(arguments) == 0

    written = repository / "build/predict/long"
    assert {each.name for each in written.iterdir()} == {
        "prediction.csv",
        *(f"{name}.{suffix}" for name in ("attention", "timeline") for suffix in ("svg", "png")),
    }
    table = pd.read_csv(written / "prediction.csv")
    assert list(table.columns) == ["start_s", "end_s", "emotion", "probability"]
    windows = reading.windows(table["end_s"].max(), Preprocess())
    assert len(windows) > 5
    assert table["emotion"].tolist() == list(EMOTIONS) * len(windows)
    assert table["probability"].between(0, 1).all()
    np.testing.assert_allclose(
        table.groupby("start_s")["probability"].sum(), np.ones(len(windows)), atol=1e-5
    )
    printed = capsys.readouterr()
    assert f"mean of {len(windows)} windows" in printed.out
    assert "it knows only drawn faces" in printed.err

    # A short clip after it must not leave the long one's timeline behind.
    assert main(["predict", str(paths[0]), "--run", run, "--output", str(written)]) == 0
    assert not list(written.glob("timeline.*"))


def test_probabilities_are_those_of_the_logits_the_most_probable_first(runs, clip):
    prediction = predict.predict(clip[0], runs["cfn_sr"], clip[1])
    logits = prediction.logits[0].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(prediction.probabilities[0], expected)
    np.testing.assert_allclose(prediction.mean[list(EMOTIONS)], expected)
    assert prediction.mean.is_monotonic_decreasing
    report = predict.report(prediction)
    assert report.splitlines()[1].split() == [
        EMOTIONS[expected.argmax()],
        f"{expected.max():.3f}",
    ]


@pytest.mark.parametrize(
    ("row", "what"),
    [("cfn_sr", "cross-modal attention"), ("msaf", "Grad-CAM"), ("video_to_audio", "Grad-CAM")],
)
def test_the_overlay_says_what_kind_of_map_it_is(runs, clip, row, what):
    overlay = predict.predict(clip[0], runs[row], clip[1]).overlay
    assert overlay.what.startswith(what)
    assert overlay.pictures.shape == (5, 40, 40, 3)
    assert overlay.map.shape == (5, 40, 40)
    assert np.isfinite(overlay.map).all()


def test_a_network_that_only_listens_has_no_overlay_and_needs_no_picture(
    runs, clip, tmp_path, repository, capsys
):
    remux(clip[0], tmp_path / "sound.mp4", only="audio")
    run = str(runs["audio"])
    assert main(["predict", str(tmp_path / "sound.mp4"), "--run", run, "--output", "out"]) == 0
    assert [each.name for each in (repository / "out").iterdir()] == ["prediction.csv"]
    assert "no overlay" in capsys.readouterr().out


def test_without_landmarks_the_face_is_looked_for(runs, clip, monkeypatch):
    looked = []
    none = np.empty((0, 2, 2))
    monkeypatch.setattr(face_detection, "find_faces", lambda each: looked.append(each) or none)
    prediction = predict.predict(clip[0], runs["cfn_sr"], None)
    assert looked
    assert any("no face was found" in warning for warning in prediction.warnings)
    np.testing.assert_allclose(prediction.probabilities.sum(axis=1), 1)


def test_a_name_of_a_training_actor_s_take_says_what_follows_only_if_it_is_that_take(
    drawn_runs, clips_root, clip
):
    run = drawn_runs["audio"]
    one = predict.predict(clip[0], run, None)
    assert not any("trained on" in warning for warning in one.warnings)
    (known, *_) = clips_root.glob("Actor_05/*.mp4")  # drawn: nobody of RAVDESS
    two = predict.predict(known, run, None)
    (warning,) = (each for each in two.warnings if "actor 5" in each)
    assert re.fullmatch(
        r"this clip is named like one of RAVDESS's actor 5; if it is, the network was trained on "
        "that actor, and is right more often than of others",
        warning,
    )


def spoilt(name, clip, runs, tmp_path):
    """The arguments of a call that cannot work."""
    path, landmarks = (shutil.copy(each, tmp_path) for each in clip)
    path, landmarks = tmp_path / clip[0].name, tmp_path / clip[1].name
    run = shutil.copytree(runs["cfn_sr"], tmp_path / "seed_1")
    match name:
        case "no such clip":
            path.unlink()
        case "a folder":
            path = tmp_path
        case "no video":
            path.write_text("This is not a video.")
        case "cut short":
            remux(clip[0], path)
            cut(path, 0.6)
        case "no sound":
            remux(clip[0], path, only="video")
        case "no picture":
            remux(clip[0], path, only="audio")
        case "too short":
            description = run / "run.json"
            description.write_text(
                description.read_text().replace('"offset_s": 0.5', '"offset_s": 9.5')
            )
        case "no run":
            run = tmp_path
        case "the fold's folder":
            run = runs["cfn_sr"].parent
        case "damaged weights":
            cut(run / "weights.pt", 0.5)
        case "a pickle":
            (run / "weights.pt").write_bytes(pickle.dumps(Preprocess(), protocol=2))
        case "no such landmarks":
            landmarks.unlink()
        case "no landmarks":
            landmarks.write_text("a,b\n1,2\n")
        case "another clip's landmarks":
            landmarks.write_text("".join(landmarks.read_text().splitlines(True)[:20]))
        case "unwritable":
            (tmp_path / "out").write_text("in the way")
    return [str(path), "--landmarks", str(landmarks), "--run", str(run)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no such clip", "is no file"),
        ("a folder", "is no file"),
        ("no video", "cannot be decoded"),
        ("cut short", "cut short|cannot be decoded"),
        ("no sound", "has no sound"),
        ("no picture", "has no picture"),
        ("too short", "is too short"),
        ("no run", r"holds no run\.json"),
        ("the fold's folder", "did you mean"),
        ("damaged weights", "is not what its training left"),
        ("a pickle", "is not what its training left"),
        (
            "no such landmarks",
            r"csv is no file; give OpenFace's 68 points of this clip, or leave --landmarks out$",
        ),
        (
            "no landmarks",
            "lack column x_0; export them again with OpenFace, or leave --landmarks out$",
        ),
        ("another clip's landmarks", "do both belong to this clip"),
        ("unwritable", "cannot be written"),
    ],
)
def test_what_cannot_be_used_gets_one_line(name, message, repository, runs, clip, tmp_path, capfd):
    arguments = spoilt(name, clip, runs, tmp_path)
    assert main(["predict", *arguments, "--output", str(tmp_path / "out")]) == 1
    printed = capfd.readouterr().err
    lines = [line for line in printed.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, printed
    assert lines[0].startswith("error: ")
    assert re.search(message, lines[0]), lines[0]


def test_landmark_networks_say_that_they_need_landmarks(
    drawn_runs, repository, clip, capsys, monkeypatch
):
    monkeypatch.setattr(landmark_detection, "is_installed", lambda: False)
    assert main(["predict", str(clip[0]), "--run", str(drawn_runs["video"])]) == 1
    assert "--landmarks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is no file; give OpenFace's 68 points of this clip"),
        ("a,b\n1,2\n", "lack column x_0; export them again with OpenFace"),
    ],
)
def test_landmark_networks_are_not_told_to_leave_landmarks_out(
    drawn_runs, repository, clip, tmp_path, capsys, text, message
):
    landmarks = tmp_path / "own.csv"
    if text:
        landmarks.write_text(text)
    run = str(drawn_runs["video"])
    assert main(["predict", str(clip[0]), "--run", run, "--landmarks", str(landmarks)]) == 1
    assert capsys.readouterr().err.endswith(f"{message}\n")


def test_without_a_run_the_published_network_answers(repository, clip, capsys):
    assert main(["predict", str(clip[0]), "--landmarks", str(clip[1]), "--output", "out"]) == 0
    printed = capsys.readouterr()
    assert "trained on all 24 actors" in printed.out
    assert re.search(r"clips of unseen actors of which it was as sure", printed.out)


@pytest.mark.parametrize(("range_", "told"), [((0, 100), set()), ((0, 1e-6), {"face", "voice"})])
def test_a_voice_and_a_face_unlike_the_training_clips_are_told(
    runs, clip, monkeypatch, range_, told
):
    trained = predict.load_trained(runs["motion_voice"])
    scaling = {name: replace(each, typical=range_) for name, each in trained.scaling.items()}
    monkeypatch.setattr(predict, "load_trained", lambda run: replace(trained, scaling=scaling))
    warnings = predict.predict(clip[0], runs["motion_voice"], clip[1]).warnings
    unlike = {each.split()[1] for each in warnings if "unlike" in each}
    assert unlike == told


def test_a_sound_that_hardly_changes_is_told_to_be_no_voice(clip, tmp_path):
    def told(path):
        warnings = predict.predict(path, PUBLISHED, clip[1]).warnings
        return [each for each in warnings if STEADY in each]

    assert told(clip[0]) == []
    time_s = np.arange(round(3.1 * 48_000)) / 48_000
    noise = np.random.default_rng(0).normal(0, 1, len(time_s))
    # Their sizes are within the range of the training clips.
    for sound in 0.003 * noise, noise / 2**15, 0.1 * np.sin(2 * np.pi * 1000 * time_s):
        soundfile.write(tmp_path / "sound.wav", sound, 48_000)
        (warning,) = told(tmp_path / "sound.wav")
        assert warning == f"the sound of 1 windows {STEADY}"


def test_a_real_clip_gets_probabilities_from_its_found_face(
    ravdess_actor_1, runs, repository, capsys
):
    path = sorted(ravdess_actor_1.glob("Actor_01/*.mp4"))[0]
    run = str(runs["cfn_sr"])
    assert main(["predict", str(path), "--run", run, "--output", "real"]) == 0
    table = pd.read_csv("real/prediction.csv")
    assert len(table) == 8
    assert table["probability"].sum() == pytest.approx(1, abs=1e-5)
    assert "no face" not in capsys.readouterr().err


@pytest.mark.slow
def test_the_notebook_shows_a_clip_from_top_to_bottom(repository, runs, clip, monkeypatch):
    monkeypatch.setenv("CFNSR_WARM", "0")
    source = REPOSITORY / "notebooks" / "06_your_own_clip.ipynb"
    given = {"clip": clip[0], "landmarks": clip[1], "run": runs["cfn_sr"], "output": "shown"}
    arguments = [part for name, value in given.items() for part in ("-p", name, str(value))]
    assert notebook.main([str(source), "executed.ipynb", *arguments]) == 0
    assert len(pd.read_csv("shown/prediction.csv")) == 8
    executed = (repository / "executed.ipynb").read_text()
    assert "image/png" in executed
