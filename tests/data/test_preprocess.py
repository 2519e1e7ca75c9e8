import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import SMALL, TAKES, alone, cut, read_waveform, remux, write_film
from distributed import KilledWorker
from test_cluster import kill_at_work

from cfnsr import InputError, cluster
from cfnsr.data import audio, motion, preprocess, sources, summary, video
from cfnsr.data.clips import load_clips
from cfnsr.data.corpora.ravdess import EMOTIONS, parse_name, stem, take
from cfnsr.data.drawing import draw_faces
from cfnsr.data.landmarks import read_landmarks
from cfnsr.data.media import probe
from cfnsr.params import Drawing, Params, Preprocess

SKIPPING = SMALL.model_copy(update={"rejected": "skip"})
STEMS = [stem(take) for take in TAKES]


def run(root, folder, settings=SMALL, source="synthetic", on=alone):
    """Preprocess all clips of `root` into `folder/arrays`; the index."""
    params = Params(data=source)
    manifest = sources.manifest(root, params)
    with on():
        return preprocess.preprocess(
            manifest, root, folder / "arrays", params, settings, folder / "scratch"
        )


def contents(folder):
    return {path.name: path.read_bytes() for path in (folder / "arrays").iterdir()}


def rejected(folder):
    table = pd.read_csv(folder / "arrays" / "rejected.csv")
    return {Path(media).name: reason for media, reason in table.itertuples(index=False)}


@pytest.fixture(scope="module")
def arrays(synthetic_root, tmp_path_factory):
    """The arrays of the eight clips, read only."""
    folder = tmp_path_factory.mktemp("arrays")
    run(synthetic_root, folder)
    return folder


@pytest.fixture
def worked_on(monkeypatch):
    """The names of the clips that are preprocessed, in that order."""
    names = []
    original = preprocess.preprocess_clip

    def spy(media, *others):
        names.append(media.name)
        return original(media, *others)

    monkeypatch.setattr(preprocess, "preprocess_clip", spy)
    return names


def test_the_arrays_hold_every_clip_in_the_order_of_the_index(arrays, synthetic_root):
    index = pd.read_csv(arrays / "arrays" / "index.csv", dtype={"clip": str})
    said_by_name = ["actor", "emotion", "intensity", "statement", "repetition"]
    assert [*index] == ["clip", *said_by_name, "media_sha256", "landmarks_sha256"]
    assert index["clip"].tolist() == sorted(parse_name(stem).clip for stem in STEMS[:4]) + sorted(
        parse_name(stem).clip for stem in STEMS[4:]
    )
    whole = {
        name: np.load(arrays / "arrays" / f"{name}.npy", mmap_mode="r")
        for name in ("frames", "mfcc", "log_mel", "landmark_statistics", "motion")
    }
    assert whole["frames"].shape == (8, 5, 24, 24, 3)
    assert whole["mfcc"].shape == (8, 13, 212)
    assert whole["log_mel"].shape == (8, 128, 212)
    assert {name: str(array.dtype) for name, array in whole.items()} == {
        "frames": "uint8",
        "mfcc": "float32",
        "log_mel": "float16",
        "landmark_statistics": "float32",
        "motion": "float32",
    }
    for i, line in index.iterrows():
        media = synthetic_root / f"Actor_{line['actor']:02d}" / f"01-01-{line['clip']}.mp4"
        points = read_landmarks(synthetic_root / "landmarks" / f"{media.stem}.csv").points
        log_mel = audio.log_mel(audio.read_window(media, SMALL), 44_100)
        np.testing.assert_array_equal(
            whole["frames"][i], video.crop_faces(probe(media), points, SMALL)
        )
        np.testing.assert_array_equal(whole["mfcc"][i], audio.mfcc(log_mel, 13))
        np.testing.assert_array_equal(whole["log_mel"][i], log_mel.astype(np.float16))
        tracks = motion.tracks(points)
        expected = summary.landmark_statistics(tracks)
        np.testing.assert_array_equal(whole["landmark_statistics"][i], expected)
        waveform, rate_hz = read_waveform(media)
        shown_s = (np.arange(len(tracks)) + 0.5) * len(waveform) / rate_hz / len(tracks)
        expected = motion.on_the_clock(tracks, shown_s, SMALL)
        np.testing.assert_array_equal(whole["motion"][i], expected)
        take = parse_name(media.stem)
        assert line["emotion"] == EMOTIONS[take.emotion - 1]
        assert (line["intensity"], line["statement"]) == (take.intensity, take.statement)


def test_a_finished_run_leaves_no_scratch_and_an_empty_list_of_rejects(arrays):
    assert rejected(arrays) == {}
    assert not list((arrays / "scratch").glob("*/*"))
    settings = json.loads((arrays / "arrays" / "settings.json").read_text())
    assert settings["frame_size"] == 24
    assert settings["source"] == "synthetic"


def test_the_order_in_which_files_are_found_changes_nothing(
    arrays, synthetic_root, tmp_path, monkeypatch
):
    for name in ("iterdir", "rglob"):
        listed = getattr(Path, name)
        monkeypatch.setattr(
            Path, name, lambda *given, listed=listed: sorted(listed(*given), reverse=True)
        )
    run(synthetic_root, tmp_path)
    assert contents(tmp_path) == contents(arrays)


def spoil(root):
    """Spoil six of the eight clips and add two files; what is said of each."""
    media = {stem: root / f"Actor_{stem[-2:]}" / f"{stem}.mp4" for stem in STEMS}
    csv = {stem: root / "landmarks" / f"{stem}.csv" for stem in STEMS}
    cut(media[STEMS[1]], 0.6)
    media[STEMS[2]].write_bytes(b"")
    media[STEMS[3]].write_text("not a video")
    csv[STEMS[4]].unlink()
    csv[STEMS[5]].write_text("")
    table = pd.read_csv(csv[STEMS[6]]).copy()  # in one piece
    table.assign(success=0).to_csv(csv[STEMS[6]], index=False)
    shutil.copy(media[STEMS[0]], root / "Actor_02")
    shutil.copy(media[STEMS[0]], root / "Actor_01" / "holiday.mp4")
    shutil.copy(media[STEMS[0]], root / "Actor_01" / f"01-02{STEMS[0][5:]}.mp4")
    return {
        f"{STEMS[1]}.mp4": "cannot be decoded",
        f"{STEMS[2]}.mp4": "cannot be decoded",
        f"{STEMS[3]}.mp4": "cannot be decoded",
        f"{STEMS[4]}.mp4": "cannot be read (No such file or directory); fetch the landmark archive",
        f"{STEMS[5]}.mp4": "are empty or no csv",
        f"{STEMS[6]}.mp4": "lack the face in",
        f"{STEMS[0]}.mp4": "is there twice; keep one of the two",
        "holiday.mp4": "is not a RAVDESS name",
        f"01-02{STEMS[0][5:]}.mp4": "is a song",
    }


def test_all_bad_clips_are_listed_and_the_good_ones_kept(clips_root, arrays, tmp_path):
    expected = spoil(clips_root)
    with pytest.raises(InputError, match="9 of 11 clips cannot be used") as caught:
        run(clips_root, tmp_path)
    found = rejected(tmp_path)
    assert set(found) == set(expected)
    for name, reason in expected.items():
        assert reason in found[name]
        assert f"{name}: " in str(caught.value)
    assert "\n" not in "".join(found.values())
    index = pd.read_csv(tmp_path / "arrays" / "index.csv", dtype={"clip": str})
    good = [parse_name(STEMS[0]).clip, parse_name(STEMS[7]).clip]
    assert index["clip"].tolist() == good
    whole = pd.read_csv(arrays / "arrays" / "index.csv", dtype={"clip": str})["clip"]
    for name in ("frames", "mfcc", "log_mel"):
        all_clips = np.load(arrays / "arrays" / f"{name}.npy")
        np.testing.assert_array_equal(
            np.load(tmp_path / "arrays" / f"{name}.npy"), all_clips[whole.isin(good)]
        )


def test_after_mending_a_clip_only_what_is_missing_is_done(
    clips_root, synthetic_root, arrays, tmp_path, worked_on
):
    broken = clips_root / "Actor_01" / f"{STEMS[1]}.mp4"
    cut(broken, 0.6)
    with pytest.raises(InputError, match=f"{STEMS[1]}.mp4: .* cannot be decoded"):
        run(clips_root, tmp_path)
    assert len(worked_on) == 8
    shutil.copy(synthetic_root / "Actor_01" / broken.name, broken)
    worked_on.clear()
    run(clips_root, tmp_path)
    assert worked_on == [broken.name]
    assert contents(tmp_path) == contents(arrays)


def test_rejected_skip_goes_on_without_the_bad_clips_and_keeps_what_stop_had_done(
    clips_root, tmp_path, worked_on
):
    spoil(clips_root)
    with pytest.raises(InputError):
        run(clips_root, tmp_path)
    before = contents(tmp_path)
    worked_on.clear()
    assert len(run(clips_root, tmp_path, SKIPPING)) == 2
    assert f"{STEMS[7]}.mp4" not in worked_on
    assert contents(tmp_path) == before


def test_a_run_that_ends_while_it_writes_leaves_no_index_of_half_the_arrays(
    synthetic_root, tmp_path, monkeypatch
):
    def half(results, output):
        (output / "mfcc.npy").write_bytes(b"half")
        raise KeyboardInterrupt

    run(synthetic_root, tmp_path)
    before = contents(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(preprocess, "_assemble", half)
        with pytest.raises(KeyboardInterrupt):
            run(synthetic_root, tmp_path, SMALL.model_copy(update={"frame_size": 20}))
    with pytest.raises(InputError, match="holds no preprocessed clips"):
        load_clips(tmp_path / "arrays")
    run(synthetic_root, tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("settings", [SMALL, SKIPPING])
def test_a_run_without_any_usable_clip_is_an_error_even_when_skipping(
    clips_root, tmp_path, settings
):
    for path in (clips_root / "landmarks").iterdir():
        path.write_text("")
    with pytest.raises(InputError, match="8 of 8 clips cannot be used"):
        run(clips_root, tmp_path, settings)
    assert not (tmp_path / "arrays" / "index.csv").exists()


@pytest.mark.parametrize("damage", [b"", b"text", bytes(1000), None])
def test_half_done_work_that_cannot_be_read_is_done_again(
    clips_root, synthetic_root, arrays, tmp_path, worked_on, damage
):
    broken = clips_root / "Actor_01" / f"{STEMS[1]}.mp4"
    cut(broken, 0.6)
    with pytest.raises(InputError):
        run(clips_root, tmp_path)
    shutil.copy(synthetic_root / "Actor_01" / broken.name, broken)
    result = min(tmp_path.glob("scratch/*/*.npz"))
    result.write_bytes(result.read_bytes()[:-9] if damage is None else damage)
    worked_on.clear()
    run(clips_root, tmp_path)
    assert len(worked_on) == 2
    assert contents(tmp_path) == contents(arrays)


def test_what_is_half_done_of_one_source_survives_another(
    clips_root, synthetic_root, tmp_path, worked_on
):
    cut(clips_root / "Actor_01" / f"{STEMS[1]}.mp4", 0.6)
    with pytest.raises(InputError):
        run(clips_root, tmp_path)
    kept = {path: path.stat().st_ino for path in tmp_path.glob("scratch/*/*.npz")}
    assert len(kept) == 7
    run(synthetic_root, tmp_path, source="pointing")  # equal clips under another name
    assert {path: path.stat().st_ino for path in tmp_path.glob("scratch/*/*.npz")} == kept
    worked_on.clear()
    with pytest.raises(InputError):
        run(clips_root, tmp_path)
    assert len(worked_on) == 1


def test_a_disk_that_takes_no_arrays_is_one_line(synthetic_root, tmp_path, bad_disk):
    folder, answer = bad_disk
    params = Params(data="synthetic")
    manifest = sources.manifest(synthetic_root, params)
    for output, scratch in ((folder / "arrays", tmp_path), (tmp_path / "arrays", folder)):
        refused = pytest.raises(InputError, match=f"^{folder}.* cannot be written: {answer}")
        with refused as caught, alone():
            preprocess.preprocess(manifest, synthetic_root, output, params, SMALL, scratch)
        assert "\n" not in str(caught.value)
        assert not (output / "index.csv").exists()


def test_arrays_of_no_clip_do_not_count_as_made(clips_root, tmp_path):
    for path in clips_root.rglob("*.mp4"):
        path.write_bytes(b"no film")
    with pytest.raises(InputError, match="8 of 8 clips cannot be used"):
        run(clips_root, tmp_path)
    assert not preprocess.is_made_with(tmp_path / "arrays", Params(), SMALL)


def test_a_worker_whose_disk_is_full_ends_all_and_rejects_no_clip(
    synthetic_root, tmp_path, monkeypatch
):
    full = InputError("scratch cannot be written: No space left on device")
    monkeypatch.setattr(preprocess.cluster, "finished", lambda *_: iter([(3, full)]))
    with pytest.raises(InputError, match=r"^scratch cannot be written"):
        run(synthetic_root, tmp_path, on=nullcontext)
    assert not (tmp_path / "arrays" / "rejected.csv").exists()


def test_other_settings_do_not_take_up_half_done_work(clips_root, tmp_path, worked_on):
    cut(clips_root / "Actor_01" / f"{STEMS[1]}.mp4", 0.6)
    with pytest.raises(InputError):
        run(clips_root, tmp_path)
    worked_on.clear()
    run(clips_root, tmp_path, SKIPPING.model_copy(update={"frame_size": 20}))
    assert len(worked_on) == 8
    assert np.load(tmp_path / "arrays" / "frames.npy").shape == (7, 5, 20, 20, 3)


def test_one_broken_clip_of_every_kind_is_one_clear_line(one_clip, tmp_path):
    media, landmarks = one_clip
    silent, deaf = tmp_path / "a" / media.name, tmp_path / "b" / media.name
    for path, only in ((silent, "video"), (deaf, "audio")):
        path.parent.mkdir()
        remux(media, path, only=only)
    outside = tmp_path / "outside.csv"
    table = pd.read_csv(landmarks)
    away = table.assign(**{name: table[name] + 5000 for name in table if name[:2] in ("x_", "y_")})
    away.to_csv(outside, index=False)
    half = tmp_path / "half.csv"
    table.head(20).to_csv(half, index=False)
    for path, points, expected in (
        (silent, landmarks, "has no sound stream"),
        (deaf, landmarks, "no picture stream"),
        (media, outside, "face is outside the frame"),
        (media, half, "landmarks of 20"),
        (media, tmp_path / "landmarks/no.csv", r"landmarks landmarks/no\.csv cannot be read"),
    ):
        with pytest.raises(InputError, match=expected) as caught:
            preprocess.preprocess_clip(path, points, SMALL, draws_landmarks=False)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: soundfile.write(path, np.zeros(14_400), 48_000), r"0\.300 s of sound"),
        (lambda path: soundfile.write(path, np.zeros(0), 48_000), "empty sound stream"),
        (lambda path: path.write_text("not a wav"), "cannot be decoded"),
        (lambda path: path.write_bytes(b""), "cannot be decoded"),
    ],
)
def test_a_broken_wav_is_one_clear_line(one_clip, tmp_path, make, expected):
    path = tmp_path / "03-01-01-01-01-01-01.wav"
    make(path)
    with pytest.raises(InputError, match=rf"^{path.name} .*{expected}"):
        preprocess.preprocess_clip(path, one_clip[1], SMALL, draws_landmarks=True)


def test_a_clip_without_most_of_its_sound_or_film_is_one_clear_line(one_clip, tmp_path):
    path = tmp_path / one_clip[0].name
    film = [np.zeros((48, 64, 3), np.uint8)] * 60
    noise = np.random.default_rng(0).normal(0, 0.1, 64_000)
    for shown_s, sounds, kind in (
        (np.arange(60) / 15, [(0, noise[:9_000]), (3.5, noise[:8_000])], "sound"),
        (np.arange(60) / 30, [(0, noise), (4, noise)], "picture"),
    ):
        write_film(path, film, shown_s, sounds)
        with pytest.raises(InputError, match=f"lacks most of its {kind}; fetch or export"):
            preprocess.preprocess_clip(path, one_clip[1], SMALL, draws_landmarks=False)


def test_whatever_a_clip_does_costs_one_line_and_no_other_clip(
    clips_root, tmp_path, monkeypatch, worked_on
):
    original = preprocess.read_landmarks

    def failing(path):
        if path.stem == STEMS[1]:
            raise ZeroDivisionError("division\nby zero")
        tracked = original(path)
        if path.stem == STEMS[2]:
            tracked.points[3, 5] = 1e300
        return tracked

    monkeypatch.setattr(preprocess, "read_landmarks", failing)
    good = clips_root / "Actor_02" / f"{STEMS[4]}.mp4"
    folder, failed, huge = (clips_root / "Actor_01" / f"{stem}.mp4" for stem in STEMS[:3])
    shutil.rmtree(clips_root / "Actor_01")
    folder.mkdir(parents=True)
    for path in (failed, huge):
        shutil.copy(good, path)
    for _ in range(2):
        with pytest.raises(InputError, match="3 of 7 clips cannot be used"):
            run(clips_root, tmp_path)
        assert rejected(tmp_path) == {
            folder.name: f"{folder.name} cannot be decoded (Is a directory); fetch or export it "
            "again",
            failed.name: f"{failed.name} could not be read (ZeroDivisionError: division by zero)",
            huge.name: f"{huge.name}: its landmark_statistics would not be finite numbers; look at "
            "its sound and landmarks",
        }
    assert len(worked_on) == 7 + 3


RUN = """
import sys
from pathlib import Path
from cfnsr.data import preprocess, sources
from cfnsr.params import Drawing, Params, Preprocess
root, folder = map(Path, sys.argv[1:3])
preprocess.preprocess(
    sources.manifest(root, Params()), root, folder / "arrays", Params(),
    Preprocess.model_validate_json(sys.argv[3]), folder / "scratch",
)
"""


def test_a_killed_run_leaves_no_process_and_goes_on_to_the_same_bytes(
    clips_root, arrays, tmp_path, worked_on
):
    scratch = tmp_path / "scratch"
    arguments = [clips_root, tmp_path, SMALL.model_dump_json()]
    kill_at_work(RUN, arguments, lambda: len(list(scratch.glob("*/*.npz"))) >= 2)
    n_done = len(list(scratch.glob("*/*.npz")))
    assert 2 <= n_done < 8  # by two processes; this one does the rest
    run(clips_root, tmp_path)
    assert len(worked_on) == 8 - n_done
    assert contents(tmp_path) == contents(arrays)


def test_a_clip_that_ends_its_workers_is_rejected_and_costs_no_other(
    synthetic_root, tmp_path, monkeypatch
):
    worker = SimpleNamespace(address="tcp://127.0.0.1:1")

    def killed(work, jobs):
        """As `cluster.finished` tells it of workers that really die in test_cluster.py."""
        for i, job in enumerate(jobs):
            dies = job.media.stem == STEMS[5]
            yield i, KilledWorker("a task", worker, 3) if dies else work(job)

    monkeypatch.setattr(cluster, "finished", killed)
    with pytest.raises(InputError, match=f"{STEMS[5]}.mp4 ended its worker"):
        run(synthetic_root, tmp_path, on=nullcontext)
    assert len((tmp_path / "arrays/index.csv").read_text().splitlines()) == 8


def test_faces_of_landmarks_are_drawn_at_the_chosen_frames(clips_root, tmp_path):
    for name in STEMS:
        media = clips_root / f"Actor_{name[-2:]}" / f"{name}.mp4"
        waveform, rate = read_waveform(media)
        soundfile.write(media.with_name(f"03{name[2:]}.wav"), waveform, rate)
    drawing = Drawing(box="frame", line_width_px=2)
    settings = SMALL.model_copy(update={"drawing": drawing})
    index = run(clips_root, tmp_path, settings, "ravdess_landmarks")
    assert {path.name for path in (tmp_path / "arrays").glob("*.npy")} == {
        "frames.npy",
        "mfcc.npy",
        "log_mel.npy",
        "landmark_statistics.npy",
        "motion.npy",
    }
    frames = np.load(tmp_path / "arrays" / "frames.npy")
    assert frames.shape == (8, 5, 24, 24, 1)
    for i, clip in enumerate(index["clip"]):
        landmarks = read_landmarks(clips_root / "landmarks" / f"01-01-{clip}.csv").points
        chosen = [k * len(landmarks) // 5 for k in range(5)]
        np.testing.assert_array_equal(frames[i], draw_faces(landmarks[chosen], settings))


def test_landmarks_that_were_cut_at_the_end_of_a_line_are_rejected(clips_root, tmp_path):
    media = clips_root / "Actor_01" / f"{STEMS[0]}.mp4"
    waveform, rate = read_waveform(media)
    soundfile.write(media.with_name(f"03{STEMS[0][2:]}.wav"), waveform, rate)
    csv = clips_root / "landmarks" / f"{STEMS[0]}.csv"
    lines = csv.read_text().splitlines()
    csv.write_text("\n".join(lines[: len(lines) // 2]) + "\n")
    with pytest.raises(InputError, match=r"landmarks .* but the sound at .* fetch them again"):
        run(clips_root, tmp_path, source="ravdess_landmarks")


def test_the_real_videos_of_actor_1_become_the_papers_arrays(ravdess_actor_1, tmp_path):
    index = run(ravdess_actor_1, tmp_path, Preprocess(), "ravdess")
    assert index["clip"].tolist() == ["01-01-01-01-01", "08-01-01-02-01", "08-02-02-02-01"]
    frames = np.load(tmp_path / "arrays" / "frames.npy", mmap_mode="r")
    assert frames.shape == (3, 30, 224, 224, 3)
    red, _, blue = frames.mean(axis=(0, 1, 2, 3))
    assert red > blue
    assert np.load(tmp_path / "arrays" / "mfcc.npy").shape == (3, 13, 212)


def test_the_60_real_takes_of_actor_1_become_drawn_faces_and_mfccs(ravdess_actor_1, tmp_path):
    settings = Preprocess(n_frames=16, frame_size=64)
    index = run(ravdess_actor_1, tmp_path, settings, "ravdess_landmarks")
    assert len(index) == 60
    assert index["emotion"].value_counts()["neutral"] == 4
    frames = np.load(tmp_path / "arrays" / "frames.npy", mmap_mode="r")
    assert frames.shape == (60, 16, 64, 64, 1)
    assert 0.02 < (frames > 0).mean() < 0.4
    mfcc = np.load(tmp_path / "arrays" / "mfcc.npy")
    assert mfcc.shape == (60, 13, 212)
    assert np.isfinite(mfcc).all()


def test_a_result_is_keyed_by_the_take_so_that_equal_files_of_two_takes_stay_two():
    equal = {"media_sha256": "a", "landmarks_sha256": "b"}
    names = [stem(take(1, 2, 1, statement, 1)) for statement in (1, 2)]
    files = [SimpleNamespace(media=f"{name}.mp4", **equal) for name in names]
    assert len(set(map(preprocess._key, files))) == 2
