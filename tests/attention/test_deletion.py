"""Tests of deletion and insertion, and of modality reliance, on models whose answer is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMALL, TAKES
from test_maps import made

from cfnsr import InputError
from cfnsr.attention import deletion
from cfnsr.attention.reliance import (
    audio,
    donors,
    drop_frames,
    media_of,
    outcomes_of_run,
    summarise,
    with_noise,
)
from cfnsr.data import corpora
from cfnsr.data.clips import Clips, Scaling
from cfnsr.data.corpora.ravdess import EMOTIONS, stem
from cfnsr.data.preprocess import preprocess_clip
from cfnsr.models.base import Sizes
from cfnsr.models.registry import find
from cfnsr.params import SourceParams
from cfnsr.training.trained import Trained, mean_clip

N_CLIPS = 40
EQUAL = np.ones(4)


def needs_region_2(hidden):
    """Sure as long as region 2 is seen."""
    return 1.0 - hidden[:, 2]


def curves(map_, area=EQUAL, score=needs_region_2):
    map_ = np.tile(map_, (N_CLIPS, 1))
    random = deletion.random_scores(score, N_CLIPS, area, seed=0, n_orders=50)
    return deletion.curves(score, map_, area, random, seed=0)


def test_a_map_on_the_region_that_matters_beats_hiding_at_random():
    found = curves([0.1, 0.2, 0.6, 0.1])
    # the score falls to 0 within the first quarter, at random on average after a half
    assert found.deletion_gain.mean() == pytest.approx(0.5 - 0.13, abs=0.02)
    assert found.insertion_gain.mean() == pytest.approx(0.87 - 0.5, abs=0.02)
    assert min(found.deletion_gain.min(), found.insertion_gain.min()) > 0.2
    assert found.most_first[0].tolist() == found.random[0].tolist() == [1.0] * N_CLIPS
    assert found.most_first[-1].tolist() == found.least_first[-1].tolist() == [0.0] * N_CLIPS


def test_a_map_that_shuns_the_region_that_matters_misleads():
    found = curves([0.3, 0.3, 0.0, 0.4])
    assert found.deletion_gain.max() < -0.3
    assert found.insertion_gain.max() < -0.3


def test_a_map_without_preference_is_as_good_as_chance():
    found = curves([0.25] * 4)
    assert abs(found.deletion_gain.mean()) < 0.1
    assert abs(found.insertion_gain.mean()) < 0.1
    assert np.ptp(found.most_first[5]) > 0  # equal regions come in another order for each clip


def test_a_region_is_worth_its_area_and_no_more():
    """All parts count alike here, so a map that ranks the largest region first gains nothing."""
    area = np.array([1.0, 1.0, 1.0, 7.0])
    found = curves([0.1, 0.2, 0.3, 0.4], area, lambda hidden: 1 - hidden @ area / area.sum())
    np.testing.assert_allclose(found.deletion_gain, 0, atol=1e-9)
    np.testing.assert_allclose(found.most_first[:, 0], 1 - found.hidden)


def test_curves_of_several_runs_are_joined_clip_by_clip():
    one, other = curves([0, 0, 1, 0]), curves([0, 1, 0, 0])
    joined = deletion.Curves.joined([one, other])
    np.testing.assert_allclose(
        joined.deletion_gain, np.concatenate([one.deletion_gain, other.deletion_gain])
    )


@pytest.mark.parametrize(("modality", "name"), [("video", "frames"), ("audio", "mfcc")])
def test_hiding_part_of_a_clip_is_what_its_network_is_asked_about(modality, name):
    """The probability of the emotion predicted from the whole clip, by way of the whole network."""
    trained = made("cfn_sr")
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (4, 10, 72, 72, 3), dtype=np.uint8)
    sound = rng.normal(2, 3, (4, 13, 212)).astype(np.float32)
    arrays = {"frames": pictures, "mfcc": sound}
    silence = {name: mean_clip(array) for name, array in arrays.items()}
    regions = np.arange(212) // 106
    if modality == "video":
        regions = np.broadcast_to(np.arange(72) // 36, (10, 72, 72))
    score = deletion.score_of(trained.view(arrays), arrays, silence, modality, regions)
    probability = torch.from_numpy(trained.logits(arrays)).softmax(dim=1).numpy()
    np.testing.assert_allclose(score(np.zeros((4, 2), bool)), probability.max(axis=1), rtol=1e-5)
    half = np.tile([False, True], (4, 1))
    half[0] = False  # of the first clip nothing is hidden
    spoilt = {"frames": pictures.copy(), "mfcc": sound.copy()}
    spoilt["frames"][1:, :, :, 36:] = silence["frames"][:, :, 36:]
    spoilt["mfcc"][1:, :, 106:] = silence["mfcc"][:, 106:]
    expected = trained.logits(arrays | {name: spoilt[name]})
    expected = torch.from_numpy(expected).softmax(dim=1).numpy()
    whole = probability.argmax(axis=1)
    np.testing.assert_allclose(score(half), expected[np.arange(4), whole], rtol=1e-4)
    assert np.ptp(expected - probability, axis=1)[1:].min() > 1e-4
    np.testing.assert_allclose(
        score(~np.zeros((4, 2), bool)), score(~np.zeros((4, 2), bool)), rtol=0
    )


def test_a_lost_frame_shows_the_one_before_and_the_first_is_never_lost():
    pictures = np.tile(np.arange(8)[None, :, None], (500, 1, 1))
    rng = np.random.default_rng(0)
    assert drop_frames(pictures, 0, rng).tolist() == pictures.tolist()
    shown = drop_frames(pictures, 0.5, rng)[..., 0]
    assert (shown[:, 0] == 0).all()
    assert {len(set(clip)) for clip in shown.tolist()} == {4}
    steps = np.diff(shown, axis=1)
    kept = shown[:, 1:] == np.arange(1, 8)
    assert (kept | (steps == 0)).all()
    assert (kept.mean(axis=0) > 0.3).all()  # every later frame is lost now and then, none always
    assert drop_frames(pictures, 1, rng).max() == 0


def test_donors_are_of_another_emotion():
    emotion = np.repeat(np.arange(8), 5)
    found = donors(emotion, np.random.default_rng(0))
    assert (emotion[found] != emotion).all()
    assert len(set(emotion[found[:5]])) > 1
    with pytest.raises(InputError, match="two emotions"):
        donors(np.zeros(4, int), np.random.default_rng(0))


@pytest.fixture(scope="module")
def real_clips(synthetic_root):
    """The eight synthetic clips of the tests, preprocessed, and their files."""
    media = [synthetic_root / f"Actor_{t.actor:02d}" / f"{stem(t)}.mp4" for t in TAKES]
    arrays = [
        preprocess_clip(path, synthetic_root / "landmarks" / f"{stem(t)}.csv", SMALL, False)
        for path, t in zip(media, TAKES, strict=True)
    ]
    joined = {name: np.stack([clip[name] for clip in arrays]) for name in arrays[0]}
    index = pd.DataFrame(
        {
            "clip": [take.clip for take in TAKES],
            "actor": [take.actor for take in TAKES],
            "emotion": [EMOTIONS[take.emotion_index] for take in TAKES],
            "media_sha256": [f"of {take.clip}" for take in TAKES],
        }
    )
    return Clips(index, **joined, sha256="made up"), media


def test_noise_goes_into_the_waveform_and_none_leaves_the_preprocessed_sound(real_clips):
    clips, media = real_clips
    levels = (np.inf, 20.0, 0.0)
    found = with_noise(clips, media, np.array([0, 3]), SMALL, seed=0, snr_db=levels)
    np.testing.assert_allclose(found[np.inf].mfcc[[0, 3]], clips.mfcc[[0, 3]], atol=1e-3)
    np.testing.assert_array_equal(found[np.inf].log_mel[[0, 3]], clips.log_mel[[0, 3]])
    distance = [np.abs(found[snr].mfcc[3] - clips.mfcc[3]).mean() for snr in levels]
    assert distance[0] < 1 < distance[1] < distance[2]
    assert np.isnan(found[0.0].mfcc[1]).all()  # what is not asked for cannot be used by mistake
    again = with_noise(clips, media, np.array([3]), SMALL, seed=0, snr_db=[0.0])
    np.testing.assert_array_equal(again[0.0].mfcc[3], found[0.0].mfcc[3])


def test_noise_has_the_power_that_the_ratio_says(real_clips, monkeypatch):
    clips, media = real_clips
    heard = []
    monkeypatch.setattr(
        audio,
        "log_mel",
        lambda window, rate: (heard.append(window), np.zeros((128, 212)))[1],
    )
    with_noise(clips, media, np.array([0]), SMALL, seed=0, snr_db=[np.inf, 10.0])
    window, spoilt = heard
    ratio_db = 10 * np.log10(np.mean(window**2) / np.mean((spoilt - window) ** 2))
    assert ratio_db == pytest.approx(10, abs=0.1)


def test_a_clip_whose_file_is_gone_is_named(real_clips, tmp_path):
    clips, media = real_clips
    root = media[0].parents[1]
    names = [str(path.relative_to(root)) for path in media]
    manifest = pd.DataFrame({"media": names, "media_sha256": clips.index["media_sha256"]})
    assert media_of(clips.index, manifest, root) == media
    with pytest.raises(InputError, match=r"is gone.*dvc repro"):
        media_of(clips.index, manifest, tmp_path)


def conditions(row, clips, change=lambda model: None):
    """Accuracy and `follows` of a network with random weights by condition and level."""
    trained = made(row)
    trained = replace(trained, info={"fold": 1, "seed": 0}, preprocess=SMALL.model_copy())
    with torch.no_grad():
        change(trained.model)
    positions = np.arange(len(clips.index))
    arrays = trained.arrays(clips, positions)
    view = trained.view(arrays)
    spoilt = {10.0: clips, 0.0: clips}
    silence = {name: mean_clip(array) for name, array in arrays.items()}
    return outcomes_of_run(view, clips, positions, spoilt, silence, seed=0)


def test_a_network_that_ignores_the_sound_is_moved_by_the_picture_alone(real_clips):
    clips, _ = real_clips

    def deaf(model):
        model.head.weight[:, model.video.n_channels :] = 0
        model.head.weight[:, : model.video.n_channels] *= 100

    found = conditions("no_cross_modal", clips, deaf)
    says = found.assign(level=found["level"].fillna(0)).pivot(
        index="clip", columns=["condition", "level"], values="correct"
    )
    intact = says[("intact", 0)]
    for condition in [("audio silenced", 0), ("audio swapped", 0), ("audio noise", 0.0)]:
        assert (says[condition] == intact).all()
    assert {name for name, _ in says} >= {"video silenced", "video swapped", "frames dropped"}
    assert found.groupby(["condition", "level"], dropna=False).size().eq(8).all()
    swapped = found["condition"].str.endswith("swapped")
    assert found.loc[swapped, "follows"].isin([True, False]).all()
    assert found.loc[~swapped, "follows"].isna().all()


@pytest.mark.parametrize(
    ("row", "absent"), [("video", "audio"), ("audio", "video"), ("audio", "frames")]
)
def test_a_network_of_one_modality_meets_no_condition_of_the_other(row, absent, real_clips):
    found = conditions(row, real_clips[0])
    assert not found["condition"].str.startswith(absent).any()
    assert found["condition"].nunique() > 3


def test_a_swapped_picture_makes_a_network_that_only_sees_say_what_it_says_of_the_donor(
    real_clips,
):
    clips, _ = real_clips
    found = conditions("video", clips).reset_index(drop=True)
    trained = made("video")
    says = trained.logits({"frames": clips.frames}).argmax(axis=1)
    donor = donors(clips.emotion, np.random.default_rng([0, 1]))
    swapped = found[found["condition"] == "video swapped"]
    assert swapped["correct"].tolist() == (says[donor] == clips.emotion).tolist()
    assert swapped["follows"].tolist() == (says == clips.emotion)[donor].tolist()


@pytest.mark.parametrize("row", ["linear", "motion_voice"])
def test_rows_without_pictures_have_a_face_to_silence_and_hear_noise(row, real_clips):
    clips, _ = real_clips
    system = find(row)
    scaling = {name: Scaling.of(getattr(clips, name)) for name in system.inputs}
    model = system.build(Sizes.of(SourceParams(preprocess=SMALL), corpora.find())).eval()
    trained = Trained(model, system, {"fold": 1}, SMALL, scaling, 100)
    arrays = trained.arrays(clips, np.arange(8))
    every = np.arange(8)
    spoilt = replace(clips, mfcc=-9 * clips.mfcc, log_mel=-9 * clips.log_mel)
    silence = {name: mean_clip(array) for name, array in arrays.items()}
    found = outcomes_of_run(trained.view(arrays), clips, every, {0.0: spoilt}, silence, seed=0)
    assert list(found["condition"].unique()) == [
        "intact",
        "video silenced",
        "video swapped",
        "audio silenced",
        "audio swapped",
        "audio noise",
    ]
    (of_face,) = system.of_face
    donor = donors(clips.emotion, np.random.default_rng([0, 1]))
    intact = trained.logits(arrays)
    for condition, changed in (
        ("video swapped", {of_face: arrays[of_face][donor]}),
        ("audio noise", spoilt.arrays(system.of_voice, every)),
    ):
        logits = trained.logits(arrays | changed)
        is_right = logits.argmax(axis=1) == clips.emotion
        assert found.loc[found["condition"] == condition, "correct"].tolist() == is_right.tolist()
        assert np.abs(logits - intact).max() > 0


def test_the_summary_worked_by_hand():
    """Two runs of two clips each: 3 of 4 right when intact, 1 of 4 when silenced."""
    clip, actor = ["a", "b"], [1, 2]

    def run(intact, silenced):
        lines = [("intact", True, intact), ("audio silenced", False, silenced)]
        return pd.concat(
            pd.DataFrame(
                {
                    "condition": name,
                    "level": np.nan,
                    "clip": clip,
                    "actor": actor,
                    "correct": right,
                    "follows": np.nan,
                    "weight": 0.5,
                }
            )
            for name, _, right in lines
        )

    table = summarise(
        {"audio": [run([True, True], [False, False]), run([True, False], [True, False])]}
    )
    assert table["condition"].tolist() == ["intact", "audio silenced"]
    assert table["accuracy_pct"].tolist() == [75, 25]
    assert table["change_pct"].tolist() == [0, -50]
    assert table.loc[1, "change_low_pct"] <= -50 <= table.loc[1, "change_high_pct"]
    assert table["n_runs"].tolist() == [2, 2]
    assert table["follows_pct"].isna().all()
