"""Tests of `cfnsr.data.synthetic.design`: what is shown, and what can be known from it."""

from itertools import permutations

import numpy as np
import pytest

from cfnsr.data.corpora.ravdess import EMOTIONS
from cfnsr.data.synthetic import recording
from cfnsr.data.synthetic.design import ceilings, cue, even_lots, takes
from cfnsr.data.synthetic.voices import SAMPLE_RATE_HZ
from cfnsr.params import PointingClips

CERTAIN = PointingClips(part_reliability=1, pointer_reliability=1)
DOUBTFUL = PointingClips(part_reliability=0.9, pointer_reliability=0.8, voice_reliability=0.65)
N_EMOTIONS = 8


def simulated(clips, n_draws, rng):
    """Emotions, and what is shown of them, drawn by the words of the module's docstring."""

    def or_any_other(emotion, reliability):
        step = rng.integers(1, N_EMOTIONS, n_draws)
        wrong = rng.random(n_draws) >= reliability
        return (emotion + wrong * step) % N_EMOTIONS

    emotion = rng.choice([take.emotion_index for take in takes(clips)], n_draws)
    shown = or_any_other(emotion, clips.part_reliability)
    decoy = or_any_other(shown, 0)
    is_upper = rng.random(n_draws) < 0.5
    names_upper = is_upper == (rng.random(n_draws) < clips.pointer_reliability)
    voice = or_any_other(emotion, clips.voice_reliability or 1 / N_EMOTIONS)
    upper, lower = np.where(is_upper, [shown, decoy], [decoy, shown])
    return emotion, upper, lower, names_upper.astype(int), voice


def test_one_part_shows_the_emotion_and_the_voice_names_it_at_the_set_rates():
    every_take = takes(DOUBTFUL)
    assert len(every_take) == 1440
    true = {
        take: "upper" if lots[0] < 0.5 else "lower"
        for emotion in range(1, N_EMOTIONS + 1)
        for take, lots in even_lots(DOUBTFUL, emotion, 5).items()
    }
    found = []
    for take in every_take:
        shown, part = cue(take, DOUBTFUL), true[take]
        assert shown.upper != shown.lower
        found.append(
            (
                part == "upper",
                getattr(shown, part) == EMOTIONS[take.emotion_index],
                shown.points_to == part,
                shown.voice == EMOTIONS[take.emotion_index],
            )
        )
    np.testing.assert_allclose(np.mean(found, axis=0), [0.5, 0.9, 0.8, 0.65], atol=0.01)
    np.testing.assert_allclose(np.corrcoef(np.transpose(found)), np.eye(4), atol=0.05)


def test_the_voice_shows_no_emotion_unless_it_is_asked_to():
    assert {cue(take, CERTAIN).voice for take in takes(CERTAIN)} == {None}


def test_the_other_part_shows_every_other_emotion_as_often():
    counts = np.zeros((N_EMOTIONS, N_EMOTIONS))
    for take in takes(CERTAIN):
        shown = cue(take, CERTAIN)
        counts[EMOTIONS.index(shown.upper), EMOTIONS.index(shown.lower)] += 1
    assert np.diag(counts).sum() == 0
    of_pairs = counts[1:, 1:][~np.eye(N_EMOTIONS - 1, dtype=bool)]  # neutral has half the takes
    assert of_pairs.min() > 0.5 * of_pairs.mean()


def test_with_certain_cues_both_settle_everything_and_the_face_alone_half():
    # A face of two emotions; where one of them is neutral, the other is twice as likely.
    n_takes = np.array([1] + 7 * [2])
    pairs = [(a, b) for a in range(8) for b in range(a)]
    face = sum(max(n_takes[a], n_takes[b]) for a, b in pairs) / sum(
        n_takes[a] + n_takes[b] for a, b in pairs
    )
    found = ceilings(CERTAIN)
    assert found["audio_video"] == pytest.approx(100)
    assert found["video"] == pytest.approx(100 * face)
    assert found["audio"] == pytest.approx(100 * 2 / 15)
    assert found["additive"] == pytest.approx((100 + 100 * face) / 2)


@pytest.mark.parametrize("clips", [PointingClips(), CERTAIN, DOUBTFUL])
def test_ceilings_equal_a_simulation_of_the_best_guesser(clips):
    emotion, *shown = simulated(clips, 400_000, np.random.default_rng(0))
    found = ceilings(clips)
    for name, given in {"video": shown[:2], "audio": shown[2:], "audio_video": shown}.items():
        _, pattern = np.unique(np.stack(given), axis=1, return_inverse=True)
        counts = np.zeros((pattern.max() + 1, N_EMOTIONS))
        np.add.at(counts, (pattern, emotion), 1)
        # The best guess for each pattern is found on the draws it is tried on: half a point.
        assert 100 * counts.max(axis=1).sum() / len(emotion) == pytest.approx(found[name], abs=0.5)


@pytest.mark.parametrize("clips", [PointingClips(), CERTAIN])
def test_no_additive_rule_does_better_than_its_ceiling(clips):
    # A rule f_e(face) + g_e(part) can answer a face with e for one part and with another emotion
    # e' for the other if, and only if, g says so: the order of g_e(lower) - g_e(upper) is all of
    # g that matters. So try all orders, each with the best f.
    rng = np.random.default_rng(1)
    emotion, upper, lower, named, _ = simulated(clips, 1_000_000, rng)
    joint = np.zeros((N_EMOTIONS, N_EMOTIONS, 2, N_EMOTIONS))
    np.add.at(joint, (upper, lower, named, emotion), 1 / len(emotion))
    faces = joint.reshape(-1, 2, N_EMOTIONS)
    gain = faces[:, 0, :, None] + faces[:, 1, None, :]  # (face, e for lower, e' for upper)
    best = 0.0
    for order in list(permutations(range(N_EMOTIONS)))[::97]:
        rank = np.argsort(order)
        allowed = rank[:, None] >= rank[None, :]
        best = max(best, np.where(allowed, gain, 0).max(axis=(1, 2)).sum())
    assert 100 * best == pytest.approx(ceilings(clips)["additive"], abs=0.7)


def test_the_voice_of_the_mixture_names_the_part_and_then_shows_its_emotion():
    clips = PointingClips(voice_reliability=0.65)
    take = next(take for take in takes(clips) if cue(take, clips).voice == "happy")
    shown = cue(take, clips)
    sound = recording._waveform(take.actor, shown, 3.2, clips, np.random.default_rng(0))
    middle_s = (shown.voice_start_s + shown.voice_end_s) / 2

    def spectrum(start_s, end_s):
        piece = sound[round(start_s * SAMPLE_RATE_HZ) : round(end_s * SAMPLE_RATE_HZ)]
        power = np.abs(np.fft.rfft(piece * np.hanning(len(piece)))) ** 2
        return np.log([band.mean() for band in np.array_split(power, 40)])

    first = spectrum(shown.voice_start_s + 0.05, middle_s - 0.05)
    again = spectrum(shown.voice_start_s + 0.1, middle_s - 0.1)
    second = spectrum(middle_s + 0.05, shown.voice_end_s - 0.05)
    assert np.abs(first - second).mean() > 2 * np.abs(first - again).mean()
