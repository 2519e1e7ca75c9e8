import time
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
)

from cfnsr.data.corpora.ravdess import CORPUS, EMOTIONS
from cfnsr.evaluation import scores, tables
from cfnsr.evaluation.scores import (
    confusion,
    outcomes,
    per_epoch,
    reliability,
    score,
    win_matrix,
)
from cfnsr.training.runs import Predictions, Run

pytestmark = pytest.mark.filterwarnings("error")

N_EMOTIONS = len(EMOTIONS)
FOLDS = range(1, 7)


def run(fold=1, seed=1, actors=None, *, row="row", clips_per_actor=16, n_epochs=3, skill=1.5):
    """A fold of noisy logits; `skill` is what the true emotion's logit has in advance."""
    actors = np.repeat(CORPUS.groups[fold - 1] if actors is None else actors, clips_per_actor)
    take = np.tile(np.arange(clips_per_actor), len(actors) // clips_per_actor)
    emotion = take % N_EMOTIONS
    clips = [f"{e:02d}-{t:02d}-{a:02d}" for e, t, a in zip(emotion, take, actors, strict=True)]
    generator = np.random.default_rng([fold, seed, *row.encode()])
    logits = generator.normal(size=(n_epochs, len(clips), N_EMOTIONS))
    logits += skill * np.eye(N_EMOTIONS)[emotion]
    table = pd.DataFrame({"clip": clips, "actor": actors, "emotion": emotion})
    return Run(row, fold, seed, {}, pd.DataFrame(), Predictions(logits, table), None)


def only(run, keep):
    """The same run on some of its clips."""
    keep = np.asarray(keep)
    clips = run.test.clips[keep].reset_index(drop=True)
    return replace(run, test=Predictions(run.test.logits[:, keep], clips))


def paired_test(runs_a, runs_b, rule):
    return scores.paired_test(outcomes(runs_a, rule), outcomes(runs_b, rule), rule)


def all_folds(row="row", seeds=(1, 2), **kwargs):
    return [run(fold, seed, row=row, **kwargs) for fold in range(1, 7) for seed in seeds]


def test_a_score_agrees_with_scikit_learn_on_six_folds_and_two_seeds():
    runs = all_folds()
    true = np.concatenate([run.test.clips["emotion"] for run in runs])
    predicted = np.concatenate([run.test.predicted[-1] for run in runs])
    found = score(runs, "last epoch")
    assert found.accuracy_pct == pytest.approx(100 * accuracy_score(true, predicted))
    assert found.uar_pct == pytest.approx(100 * balanced_accuracy_score(true, predicted))
    assert found.macro_f1_pct == pytest.approx(100 * f1_score(true, predicted, average="macro"))
    assert found.sd_pct == pytest.approx(
        np.std([100 * run.test.correct[-1].mean() for run in runs], ddof=1)
    )
    assert (found.n_folds, found.n_clips, found.n_seeds) == (6, 24 * 16, 2)
    assert found.ci_low_pct < found.accuracy_pct < found.ci_high_pct
    expected = confusion_matrix(true, predicted, labels=range(N_EMOTIONS))
    counts = confusion(outcomes(runs, "last epoch"), EMOTIONS)
    assert (counts.to_numpy() == expected / 2).all()  # of two seeds


def test_an_absent_emotion_is_left_out_of_recall_and_f1():
    runs = [only(run, run.test.clips["emotion"] != 3) for run in all_folds(seeds=(1,))]
    true = np.concatenate([run.test.clips["emotion"] for run in runs])
    predicted = np.concatenate([run.test.predicted[-1] for run in runs])
    assert 3 in predicted
    present = [emotion for emotion in range(N_EMOTIONS) if emotion != 3]
    f1 = f1_score(true, predicted, labels=present, average="macro")
    recall = [np.mean(predicted[true == emotion] == emotion) for emotion in present]
    found = score(runs, "last epoch")
    assert found.uar_pct == pytest.approx(100 * np.mean(recall))
    assert found.macro_f1_pct == pytest.approx(100 * f1)


def test_the_interval_agrees_with_scipys_bootstrap_of_actor_means():
    runs = all_folds()
    lines = outcomes(runs, "last epoch")
    by_actor = lines.groupby("actor")["correct"].mean()
    level = 2 * stats.norm.cdf(stats.t.ppf(0.025, 23) * np.sqrt(24 / 23))
    interval = stats.bootstrap(
        (100 * by_actor.to_numpy(),),
        np.mean,
        n_resamples=40_000,
        confidence_level=1 - level,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    found = score(runs, "last epoch")
    assert (found.ci_low_pct, found.ci_high_pct) == pytest.approx(tuple(interval), abs=0.3)


def test_a_seed_counted_ten_times_leaves_the_interval_as_it_is():
    runs = all_folds(seeds=(1,))
    repeated = [replace(run, seed=seed) for run in runs for seed in range(10)]
    once, tenfold = score(runs, "last epoch"), score(repeated, "last epoch")
    assert tenfold.ci_low_pct == pytest.approx(once.ci_low_pct)
    assert tenfold.ci_high_pct == pytest.approx(once.ci_high_pct)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 9)),
        min_size=1,
        max_size=6,
        unique_by=lambda item: item[:2],
    )
)
def test_accuracy_is_the_mean_over_whatever_folds_and_seeds_there_are(shapes):
    runs = [run(fold, seed, clips_per_actor=n) for fold, seed, n in shapes]
    found = score(runs, "last epoch")
    expected = 100 * np.mean([run.test.correct[-1].mean() for run in runs])
    lines = outcomes(runs, "last epoch")
    assert found.accuracy_pct == pytest.approx(expected)
    assert 100 * lines.loc[lines["correct"], "weight"].sum() == pytest.approx(expected)
    assert 0 <= found.ci_low_pct <= found.ci_high_pct <= 100
    assert np.isnan(found.sd_pct) == (len(runs) == 1)


def test_each_run_is_scored_at_its_own_epoch():
    runs = all_folds(seeds=(1,), n_epochs=5)
    best = [100 * run.test.correct.mean(axis=1).max() for run in runs]
    assert score(runs, "best test epoch").accuracy_pct == pytest.approx(np.mean(best))


def test_equal_runs_give_equal_scores_to_the_last_bit():
    assert score(all_folds(), "last epoch") == score(all_folds(), "last epoch")


def test_one_actor_has_an_accuracy_but_no_interval():
    found = score([run(actors=[7])], "last epoch")
    assert 0 < found.accuracy_pct < 100
    assert np.isnan([found.sd_pct, found.ci_low_pct, found.ci_high_pct]).all()
    assert (found.n_folds, found.n_clips, found.n_seeds) == (1, 16, 1)


@pytest.mark.parametrize(
    ("runs", "rule"),
    [
        ([run()], "chosen on other folds"),
        ([run()], "chosen on validation actors"),
    ],
)
def test_a_rule_that_applies_to_no_run_scores_nan(runs, rule):
    found = asdict(score(runs, rule))
    counts = [found.pop(name) for name in ("rule", "n_folds", "n_clips", "n_seeds")]
    assert counts == [rule, 0, 0, 0]
    assert np.isnan(list(found.values())).all()
    assert confusion(outcomes(runs, rule), EMOTIONS).to_numpy().sum() == 0
    assert reliability(outcomes(runs, rule))["accuracy"].isna().all()
    assert np.isnan(paired_test(runs, [run()], rule).p_value)


def test_no_runs_have_no_epochs():
    assert per_epoch([]).empty


def test_a_score_of_six_folds_and_five_seeds_takes_a_moment():
    runs = all_folds(seeds=range(5), clips_per_actor=60)
    score(runs, "last epoch")
    start = time.process_time()
    score(runs, "last epoch")
    assert time.process_time() - start < 0.5


def with_confidence(confidences, right):
    """One clip per confidence, whose predicted emotion, happy, is right or wrong."""
    p = np.asarray(confidences)[:, None]
    logits = np.log(np.where(np.arange(N_EMOTIONS) == 2, p, (1 - p) / (N_EMOTIONS - 1)))
    clips = pd.DataFrame({"clip": np.arange(len(p)).astype(str), "actor": 1})
    clips["emotion"] = np.where(right, 2, 4)
    return Run("row", 1, 1, {}, pd.DataFrame(), Predictions(logits[None], clips), None)


def test_calibration_on_a_case_worked_by_hand():
    # Two bins: (0.6, 0.667] with confidence 0.63 and accuracy 1/2, (0.8, 0.867] with 0.85 and 1.
    runs = [with_confidence([0.62, 0.64, 0.84, 0.86], [True, False, True, True])]
    curve = reliability(outcomes(runs, "last epoch"))
    assert curve["n"].tolist() == [0] * 9 + [2, 0, 0, 2, 0, 0]
    filled = curve[curve["n"] > 0]
    assert filled["confidence"].tolist() == pytest.approx([0.63, 0.85])
    assert filled["accuracy"].tolist() == [0.5, 1]
    assert score(runs, "last epoch").ece == pytest.approx((0.13 + 0.15) / 2)


def test_labels_drawn_from_the_softmax_are_calibrated():
    generator = np.random.default_rng(2)
    logits = generator.normal(scale=2, size=(1, 20_000, N_EMOTIONS))
    drawn = (
        special.softmax(logits[0], axis=-1).cumsum(axis=-1) < generator.random((20_000, 1))
    ).sum(axis=-1)
    clips = pd.DataFrame({"clip": np.arange(20_000).astype(str), "actor": 1, "emotion": drawn})
    calibrated = Run("row", 1, 1, {}, pd.DataFrame(), Predictions(logits, clips), None)
    assert score([calibrated], "last epoch").ece < 0.015
    overconfident = replace(calibrated, test=Predictions(3 * logits, clips))
    assert score([overconfident], "last epoch").ece > 0.1


def test_accuracy_by_epoch_is_the_mean_over_the_runs_that_got_there():
    runs = [run(1, n_epochs=4), run(2, n_epochs=2)]
    first, second = (100 * run.test.correct.mean(axis=1) for run in runs)
    table = per_epoch(runs)
    assert table["epoch"].tolist() == [1, 2, 3, 4]
    assert table["accuracy_pct"].tolist() == pytest.approx([*(first[:2] + second) / 2, *first[2:]])
    assert table["sd_pct"].tolist() == pytest.approx(
        [*abs(first[:2] - second) / np.sqrt(2), np.nan, np.nan], nan_ok=True
    )


def test_a_paired_test_agrees_with_scipy_on_actor_means():
    a, b = all_folds("a", seeds=(1,), skill=1.7)[:2], all_folds("b", seeds=(1,))[:2]
    means = [outcomes(runs, "last epoch").groupby("actor")["correct"].mean() for runs in (a, b)]
    expected = stats.permutation_test(
        means, lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
    )
    found = paired_test(a, b, "last epoch")
    assert found.difference_pct == pytest.approx(100 * (means[0] - means[1]).mean())
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.n_actors, found.n_clips) == (8, 128)


def test_a_difference_is_tested_by_fold_too():
    a, b = all_folds("a", seeds=(1, 2), skill=1.7), all_folds("b", seeds=(1, 2))
    means = [outcomes(runs, "last epoch").groupby("fold")["correct"].mean() for runs in (a, b)]
    expected = stats.permutation_test(
        means, lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
    )
    assert paired_test(a, b, "last epoch").p_value_folds == pytest.approx(expected.pvalue)


def test_the_difference_is_that_of_the_scores_and_changes_its_sign_with_the_order():
    a, b = all_folds("a", seeds=(1, 2, 3)), all_folds("b", seeds=(1, 2, 3), skill=1.2)
    forth, back = paired_test(a, b, "last epoch"), paired_test(b, a, "last epoch")
    difference = score(a, "last epoch").accuracy_pct - score(b, "last epoch").accuracy_pct
    assert forth.difference_pct == pytest.approx(difference)
    assert back.difference_pct == pytest.approx(-difference)
    assert back.p_value == pytest.approx(forth.p_value)
    assert (back.ci_low_pct, back.ci_high_pct) == pytest.approx(
        (-forth.ci_high_pct, -forth.ci_low_pct), abs=0.3
    )


def test_rows_are_compared_on_the_seeds_that_both_have_or_on_all():
    a, b = all_folds("a", seeds=(1, 2, 3)), all_folds("b", seeds=(3, 4), skill=1.2)
    third = [[run for run in runs if run.seed == 3] for runs in (a, b)]
    assert paired_test(a, b, "last epoch") == paired_test(*third, "last epoch")
    others = all_folds("b", seeds=(4, 5), skill=1.2)
    means = [score(runs, "last epoch").accuracy_pct for runs in (a, others)]
    found = paired_test(a, others, "last epoch")
    assert found.difference_pct == pytest.approx(means[0] - means[1])
    # fold by fold: of the sixth, b has another seed only
    uneven = [run for run in third[1] if run.fold < 6] + [run for run in others if run.fold == 6]
    found = paired_test(a, uneven, "last epoch")
    assert found.n_actors == 24
    alike = [run for run in a if run.seed == 3 or run.fold == 6]
    means = [
        np.mean([score([r for r in runs if r.fold == k], "last epoch").accuracy_pct for k in FOLDS])
        for runs in (alike, uneven)
    ]
    assert found.difference_pct == pytest.approx(means[0] - means[1])


def test_the_interval_of_a_difference_agrees_with_students_on_equal_actors():
    a, b = all_folds("a", seeds=(1,), skill=1.7)[:5], all_folds("b", seeds=(1,))[:5]
    means = [outcomes(runs, "last epoch").groupby("actor")["correct"].mean() for runs in (a, b)]
    low, high = stats.ttest_rel(*means).confidence_interval(0.95)
    found = paired_test(a, b, "last epoch")
    width = 100 * (high - low)
    assert found.ci_low_pct == pytest.approx(100 * low, abs=0.1 * width)
    assert found.ci_high_pct == pytest.approx(100 * high, abs=0.1 * width)


def test_rows_are_compared_on_the_clips_that_both_classified():
    a, b = all_folds("a", seeds=(1,)), all_folds("b", seeds=(1,))
    first_actor = [only(b[0], b[0].test.clips["actor"] == 1)]
    found = paired_test(a, first_actor, "last epoch")
    assert (found.n_actors, found.n_clips, found.p_value) == (1, 16, 1)
    nothing = paired_test(a[:1], b[1:], "last epoch")
    assert np.isnan([nothing.difference_pct, nothing.p_value]).all()
    assert (nothing.n_actors, nothing.n_clips) == (0, 0)


def test_a_row_does_not_differ_from_itself():
    found = paired_test(all_folds(), all_folds(), "last epoch")
    assert (found.difference_pct, found.p_value) == (0, 1)


def test_wins_ties_and_losses_of_rows_with_known_skill():
    rows = {name: all_folds(name, (1,), skill=3 if name == "c" else 1) for name in "abc"}
    pairs = tables.all_pairs({"paper": rows})
    tests = pairs[pairs["rule"] == "last epoch"]
    assert [*zip(tests["row_a"], tests["row_b"], strict=True)][:2] == [("a", "b"), ("a", "c")]
    expected = [[np.nan, 0, -1], [0, np.nan, -1], [1, 1, np.nan]]
    matrix = win_matrix(tests)
    assert matrix.columns.tolist() == matrix.index.tolist() == list("abc")
    np.testing.assert_array_equal(matrix, expected)


def test_a_single_row_has_nothing_to_win():
    assert win_matrix(tables.all_pairs({"paper": {"a": all_folds("a")}})).empty
