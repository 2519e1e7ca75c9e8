from collections import Counter
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from conftest import alone

from cfnsr import InputError
from cfnsr.data.corpora.ravdess import EMOTIONS, parse_name, stem
from cfnsr.data.synthetic import design, recording
from cfnsr.data.synthetic.design import FACE_PARTNER, VOICE_PARTNER, ceilings, cue, takes
from cfnsr.data.synthetic.faces import CUE_LANDMARKS, FRAME_HEIGHT, FRAME_WIDTH
from cfnsr.params import Clips

CLIPS = Clips()
EVERY_TAKE = Clips(n_statements=2, n_repetitions=2)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with a strong take of one man and one woman, and the two takes."""
    root = tmp_path_factory.mktemp("clips")
    some = [parse_name("01-01-08-02-01-01-03"), parse_name("01-01-04-02-01-01-24")]
    for take in some:
        recording.write_clip(root, take, CLIPS)
    return root, some


@pytest.fixture
def few_takes(monkeypatch):
    """`write_dataset` writes two takes only, so as to be quick."""
    few, missing = takes(CLIPS)[:2], recording._missing
    monkeypatch.setattr(
        recording,
        "_missing",
        lambda root, clips: [take for take in missing(root, clips) if take in few],
    )
    return few


def named(take):
    return EMOTIONS[take.emotion_index]


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def clip_paths(root, take):
    return (
        root / f"Actor_{take.actor:02d}" / f"{stem(take)}.mp4",
        root / "landmarks" / f"{stem(take)}.csv",
    )


def test_takes_are_ravdess_names_with_half_as_many_neutral_ones():
    assert len(takes(CLIPS)) == 360
    assert len(takes(EVERY_TAKE)) == 1440
    assert [parse_name(stem(take)) for take in takes(CLIPS)] == takes(CLIPS)
    emotions = Counter(take.emotion for take in takes(CLIPS))
    assert emotions == {1: 24} | dict.fromkeys(range(2, 9), 48)


def test_partners_are_involutions_without_fixed_points_and_differ_but_for_one_pair():
    for partner in (FACE_PARTNER, VOICE_PARTNER):
        assert sorted(partner) == sorted(EMOTIONS)
        assert all(partner[partner[e]] == e != partner[e] for e in partner)
    assert [e for e in FACE_PARTNER if FACE_PARTNER[e] == VOICE_PARTNER[e]] == [
        "neutral",
        "calm",
    ]


def test_a_cue_is_the_same_when_asked_again_and_another_for_another_seed():
    take = takes(CLIPS)[100]
    before = cue(take, CLIPS)
    design._shown.cache_clear()
    assert cue(take, CLIPS) == before
    assert cue(take, Clips(seed=8)) != before


def test_shown_emotions_are_the_true_one_or_its_partner_at_the_set_rates():
    cues = [(named(take), cue(take, EVERY_TAKE)) for take in takes(EVERY_TAKE)]
    assert all(shown.upper in (e, FACE_PARTNER[e]) for e, shown in cues)
    assert all(shown.voice in (e, VOICE_PARTNER[e]) for e, shown in cues)
    right = np.array([(shown.upper == e, shown.voice == e) for e, shown in cues], float)
    np.testing.assert_allclose(right.mean(0), [0.7, 0.65], atol=0.01)
    assert right.prod(1).mean() == pytest.approx(0.7 * 0.65, abs=0.015)


@pytest.mark.parametrize("about", ["intensity", "fold", "emotion"])
def test_reliability_depends_on_neither_intensity_nor_actors_nor_emotion(about):
    rows = [
        {
            "intensity": take.intensity,
            "fold": (take.actor - 1) // 4,
            "emotion": take.emotion,
            "right": cue(take, clips).upper == named(take),
        }
        for seed in range(8)
        for clips in [Clips(seed=seed)]
        for take in takes(clips)
    ]
    rates = pd.DataFrame(rows).groupby(about)["right"].mean()
    np.testing.assert_allclose(rates, 0.7, atol=0.04)


def test_strength_tells_nothing_about_neutral_takes():
    neutral = [cue(take, EVERY_TAKE) for take in takes(EVERY_TAKE) if take.emotion == 1]
    assert np.mean([shown.strength for shown in neutral]) == pytest.approx(1.5, abs=0.15)


def test_the_voice_shows_its_emotion_inside_the_analysed_window():
    cues = [cue(take, CLIPS) for take in takes(CLIPS)]
    start_s = np.array([shown.voice_start_s for shown in cues])
    end_s = np.array([shown.voice_end_s for shown in cues])
    assert start_s.min() > 0.5
    assert end_s.max() < 2.95
    assert np.all((end_s - start_s >= 0.9) & (end_s - start_s <= 1.2))
    assert start_s.std() > 0.1


def test_ceilings_equal_the_hand_worked_case():
    # In fifteenths: neutral 1, the others 2. Alone, a modality is right as often as it is
    # reliable (.7 and .65), except that 2 x .35 > 1 x .65 makes calm the better guess for a
    # neutral voice. Together six emotions are certain, 12, and of neutral and calm the larger:
    # both neutral .455 > 2 x .105; both calm 2 x .455; face neutral, voice calm 2 x .3 x .65;
    # face calm, voice neutral 2 x .7 x .35.
    expected = {
        "video": 70.0,
        "audio": 100 * (14 * 0.65 + 2 * 0.35) / 15,
        "audio_video": 100 * (12 + 0.455 + 0.91 + 0.39 + 0.49) / 15,
    }
    assert ceilings(CLIPS) == pytest.approx(expected | {"additive": expected["audio_video"]})


@pytest.mark.parametrize(
    ("face", "voice", "expected"),
    [
        (1.0, 0.65, {"video": 100, "audio_video": 100}),
        (0.0, 1.0, {"video": 100, "audio": 100, "audio_video": 100}),
        # Coin flips leave two emotions each, and neutral with calm after both: 2 of 3.
        (0.5, 0.5, {"video": 100 * 8 / 15, "audio": 100 * 8 / 15, "audio_video": 100 * 14 / 15}),
    ],
)
def test_ceilings_are_right_at_the_extremes(face, voice, expected):
    found = ceilings(Clips(face_reliability=face, voice_reliability=voice))
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_ceilings_equal_a_simulation_of_the_best_guesser():
    rng = np.random.default_rng(0)
    n_draws = 200_000
    emotion = rng.choice([named(take) for take in takes(CLIPS)], n_draws)
    face = np.where(rng.random(n_draws) < 0.7, emotion, np.vectorize(FACE_PARTNER.get)(emotion))
    voice = np.where(rng.random(n_draws) < 0.65, emotion, np.vectorize(VOICE_PARTNER.get)(emotion))
    shown = {"video": face, "audio": voice, "audio_video": np.char.add(face, voice)}
    for name in shown:
        most_frequent = pd.crosstab(shown[name], emotion).max(axis=1).sum()
        assert 100 * most_frequent / n_draws == pytest.approx(ceilings(CLIPS)[name], abs=0.4)


def test_a_clip_decodes_to_as_many_frames_as_announced_and_landmark_rows(written):
    root, some = written
    for take in some:
        mp4, csv = clip_paths(root, take)
        with av.open(str(mp4)) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
            assert (video.width, video.height) == (FRAME_WIDTH, FRAME_HEIGHT)
            assert video.average_rate == recording.FRAME_RATE_HZ
            n_frames = sum(1 for _ in container.decode(video=0))
            duration_s = float(audio.duration * audio.time_base)
        assert n_frames == video.frames == len(pd.read_csv(csv))
        assert 3.1 <= n_frames / recording.FRAME_RATE_HZ <= 3.6
        assert duration_s == pytest.approx(n_frames / recording.FRAME_RATE_HZ, abs=0.1)


def test_landmarks_have_ravdess_columns_and_lie_inside_the_frame_in_dlibs_order(written):
    root, some = written
    for take in some:
        table = pd.read_csv(clip_paths(root, take)[1])
        xs, ys = [f"x_{i}" for i in range(68)], [f"y_{i}" for i in range(68)]
        assert list(table.columns) == ["frame", "timestamp", "confidence", *xs, *ys]
        x, y = table[xs].to_numpy(), table[ys].to_numpy()
        assert 0 <= x.min() <= x.max() < FRAME_WIDTH
        assert 0 <= y.min() <= y.max() < FRAME_HEIGHT
        brows, eyes, mouth = (y[:, list(CUE_LANDMARKS[part])].mean() for part in CUE_LANDMARKS)
        assert brows < eyes < y[:, 30].mean() < mouth < y[:, 8].mean()
        assert np.all((x[:, 0] < x[:, 36]) & (x[:, 45] < x[:, 16]))


def test_every_actor_and_emotion_stays_inside_the_frame():
    for take in takes(CLIPS)[::2]:
        look, rng = recording._look(take.actor, CLIPS), np.random.default_rng(take.actor)
        time_s = np.arange(48) / recording.FRAME_RATE_HZ
        expression = recording._expression(cue(take, CLIPS), time_s, rng)
        faces = recording.faces.landmarks(look, expression)
        poses = recording._poses(look, time_s, rng)
        for face, pose in zip(faces, poses, strict=True):
            pixels = recording.faces.place(face, look, pose)
            assert np.all((pixels >= 0) & (pixels < (FRAME_WIDTH, FRAME_HEIGHT)))


def test_the_face_is_drawn_where_its_landmarks_are(written):
    root, (take, _) = written
    mp4, csv = clip_paths(root, take)
    with av.open(str(mp4)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    middle = len(frames) // 2
    row = pd.read_csv(csv).iloc[middle]
    x, y = (np.mean([row[f"{axis}_{i}"] for i in (62, 66)]) for axis in "xy")
    # A surprised mouth is open: dark inside, unlike the chin below.
    assert frames[middle][round(y), round(x)].sum() < 200
    assert frames[middle][round(row["y_8"]) - 4, round(row["x_8"])].sum() > 250


def test_the_voice_changes_its_spectrum_where_the_cue_says(written):
    root, (take, _) = written
    with av.open(str(clip_paths(root, take)[0])) as container:
        sound = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
    shown = cue(take, CLIPS)

    def spectrum(start_s, end_s):
        rate_hz = recording.SAMPLE_RATE_HZ
        piece = sound[round(start_s * rate_hz) : round(end_s * rate_hz)]
        power = np.abs(np.fft.rfft(piece * np.hanning(len(piece)))) ** 2
        bands = [band.mean() for band in np.array_split(power, 40)]
        return np.log(bands)

    middle_s = (shown.voice_start_s + shown.voice_end_s) / 2
    inside = spectrum(shown.voice_start_s + 0.1, middle_s)
    later_inside = spectrum(middle_s, shown.voice_end_s - 0.1)
    longer_before = shown.voice_start_s - 0.5 > 2.9 - shown.voice_end_s
    outside = spectrum(
        *((0.55, shown.voice_start_s) if longer_before else (shown.voice_end_s, 2.8))
    )
    assert np.abs(inside - outside).mean() > 3 * np.abs(inside - later_inside).mean()


def test_writing_again_elsewhere_and_in_parallel_gives_the_same_bytes(tmp_path, few_takes):
    with alone():
        recording.write_dataset(tmp_path / "a", CLIPS)
    recording.write_dataset(tmp_path / "b", CLIPS)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert len(files(tmp_path / "a")) == 2 * len(few_takes) + 1


def test_clips_that_are_there_are_kept_and_missing_ones_are_made(tmp_path, few_takes, monkeypatch):
    with alone():
        recording.write_dataset(tmp_path, CLIPS)
    before = files(tmp_path)
    clip_paths(tmp_path, few_takes[1])[1].unlink()
    made = []
    write_clip = recording.write_clip
    monkeypatch.setattr(
        recording,
        "write_clip",
        lambda root, take, clips: made.append(take) or write_clip(root, take, clips),
    )
    with alone():
        recording.write_dataset(tmp_path, CLIPS)
    assert made == [few_takes[1]]
    assert files(tmp_path) == before


def test_clips_of_other_settings_are_replaced(tmp_path, few_takes):
    with alone():
        recording.write_dataset(tmp_path, CLIPS)
    old = files(tmp_path)
    with alone():
        recording.write_dataset(tmp_path, Clips(seed=8))
    new = files(tmp_path)
    assert new.keys() == old.keys()
    assert all(new[name] != old[name] for name in new)


def test_clips_of_somebody_else_are_refused_and_left_alone(tmp_path):
    real = tmp_path / "Actor_01" / "01-01-01-01-01-01-01.mp4"
    real.parent.mkdir()
    real.write_bytes(b"a real clip")
    with pytest.raises(InputError, match="choose another root"):
        recording.write_dataset(tmp_path, CLIPS)
    assert files(tmp_path) == {"Actor_01/01-01-01-01-01-01-01.mp4": b"a real clip"}


def test_an_interrupted_write_leaves_no_half_file(tmp_path, monkeypatch):
    def interrupted(path, content):
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recording.write_clip(tmp_path, takes(CLIPS)[0], CLIPS)
    assert files(tmp_path) == {}


def test_a_disk_that_takes_no_clip_is_one_line(bad_disk):
    folder, answer = bad_disk
    with pytest.raises(InputError, match=f"^{folder}/.* cannot be written: {answer}"):
        recording.write_clip(folder, takes(CLIPS)[0], CLIPS)
    assert not list(folder.rglob("*.mp4"))
