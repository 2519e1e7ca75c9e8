from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cfnsr.evaluation.uncertainty import (
    actor_interval,
    holm,
    possible_accuracies,
    sign_flip_p_value,
    wilson,
)

pytestmark = pytest.mark.filterwarnings("error")

N_CLIPS = 60  # of a RAVDESS actor


def simulated_actors(generator, n_simulations, n_actors, mean, sd):
    """Accuracies of actors who differ, (simulation, actor): beta, then binomial."""
    concentration = mean * (1 - mean) / sd**2 - 1
    shape = (n_simulations, n_actors)
    ability = generator.beta(mean * concentration, (1 - mean) * concentration, shape)
    return generator.binomial(N_CLIPS, ability) / N_CLIPS


@pytest.mark.parametrize("n_actors", [20, 24])
@pytest.mark.parametrize("sd", [0.05, 0.1])
def test_the_interval_covers_the_true_accuracy_in_95_of_100_simulations(n_actors, sd):
    mean = 0.75
    actors = simulated_actors(np.random.default_rng(3), 2_000, n_actors, mean, sd)
    intervals = np.array([actor_interval(accuracy, np.ones(n_actors)) for accuracy in actors])
    assert 0.93 <= np.mean((intervals[:, 0] <= mean) & (mean <= intervals[:, 1])) <= 0.97


def test_the_interval_is_scipys_percentile_bootstrap_at_the_expanded_level():
    accuracy = simulated_actors(np.random.default_rng(4), 1, 24, 0.7, 0.1)[0]
    level = 2 * stats.norm.cdf(stats.t.ppf(0.025, 23) * np.sqrt(24 / 23))
    expected = stats.bootstrap(
        (accuracy,),
        np.mean,
        n_resamples=40_000,
        confidence_level=1 - level,
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert actor_interval(accuracy, np.ones(24)) == pytest.approx(tuple(expected), abs=0.002)


def test_an_actor_with_twice_the_clips_weighs_twice():
    accuracy, n_clips = np.array([0.2, 0.9, 0.6, 0.7]), np.array([120, 60, 60, 60])
    low, high = actor_interval(accuracy * n_clips, n_clips)
    resampled = [
        np.average(accuracy[list(draw)], weights=n_clips[list(draw)])
        for draw in product(range(4), repeat=4)
    ]
    assert min(resampled) == pytest.approx(low)
    assert max(resampled) == pytest.approx(high)


def test_the_interval_is_reproduced_to_the_last_bit():
    accuracy = np.linspace(0.5, 0.9, 24)
    assert actor_interval(accuracy, np.ones(24)) == actor_interval(accuracy, np.ones(24))


@pytest.mark.parametrize("n_actors", [0, 1])
def test_fewer_than_two_actors_have_no_interval(n_actors):
    assert np.isnan(actor_interval(np.full(n_actors, 0.5), np.ones(n_actors))).all()


@given(st.lists(st.integers(-4, 4), max_size=8))
def test_the_exact_p_value_is_the_share_of_all_sign_flips(differences):
    flipped = [abs(np.dot(s, differences)) for s in product([-1, 1], repeat=len(differences))]
    expected = np.mean([value >= abs(sum(differences)) for value in flipped])
    assert sign_flip_p_value(differences) == pytest.approx(expected)


def test_the_exact_p_value_agrees_with_scipys_paired_permutation_test():
    a, b = simulated_actors(np.random.default_rng(6), 2, 11, 0.7, 0.1)
    expected = stats.permutation_test(
        (a, b), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip_p_value(a - b) == pytest.approx(expected.pvalue)


def test_ties_are_found_though_sums_in_another_order_differ_in_the_last_bit():
    assert sign_flip_p_value([0.1, 0.2, 0.3, -0.6]) == 1
    assert sign_flip_p_value([0.1, 0.2, -0.3, 0.7]) == 0.625


def test_forty_actors_are_exact_and_more_agree_with_a_normal_approximation():
    assert sign_flip_p_value(np.ones(40)) == pytest.approx(2 / 2**40)
    differences = np.random.default_rng(7).normal(0.25, 1, 60)
    z = differences.sum() / np.sqrt((differences**2).sum())
    assert sign_flip_p_value(differences) == pytest.approx(2 * stats.norm.sf(abs(z)), abs=0.01)


@pytest.mark.parametrize("n_actors", [20, 24])
def test_the_paired_test_rejects_a_true_null_hypothesis_5_times_in_100(n_actors):
    """Two systems of equal mean accuracy that are good at different actors."""
    generator = np.random.default_rng(8)
    a, b = (simulated_actors(generator, 1_500, n_actors, 0.75, 0.07) for _ in range(2))
    rejected = [sign_flip_p_value(difference) < 0.05 for difference in a - b]
    assert 0.035 <= np.mean(rejected) <= 0.065


def test_holm_on_a_case_worked_by_hand():
    corrected = holm([0.01, 0.04, 0.03, 0.005, np.nan])
    assert corrected == pytest.approx([0.03, 0.06, 0.06, 0.02, np.nan], nan_ok=True)


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_keeps_the_order_and_lies_between_the_p_value_and_bonferroni(p_values):
    p, corrected = np.array(p_values), holm(p_values)
    assert (p <= corrected).all()
    assert (corrected <= np.minimum(1, p * p.size)).all() or p.size == 0
    assert (np.diff(corrected[np.argsort(p)]) >= 0).all()


@pytest.mark.parametrize(
    "accuracy_pct", [62.99, 56.53, 68.82, 70.35, 70.56, 71.04, 71.32, 73.12, 74.86, 75.76]
)
def test_table_1_but_for_eranns_counts_clips_of_six_folds_and_not_of_five(accuracy_pct):
    assert possible_accuracies(accuracy_pct, 1440)
    assert not possible_accuracies(accuracy_pct, 1200)


@pytest.mark.parametrize("accuracy_pct", [73.50, 75.33])
def test_two_ablations_of_table_2_count_clips_of_five_folds_and_not_of_six(accuracy_pct):
    assert possible_accuracies(accuracy_pct, 1200)
    assert not possible_accuracies(accuracy_pct, 1440)


@pytest.mark.parametrize("accuracy_pct", [74.80, 74.15, 73.86])
def test_eranns_and_two_ablations_fit_neither_number_of_folds(accuracy_pct):
    assert not possible_accuracies(accuracy_pct, 1200)
    assert not possible_accuracies(accuracy_pct, 1440)


def test_an_exact_half_may_have_been_rounded_either_way():
    assert possible_accuracies(3.12, 32) == possible_accuracies(3.13, 32) == (3.125,)
    assert possible_accuracies(3.11, 32) == possible_accuracies(3.14, 32) == ()


@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_every_rounded_fraction_is_possible(fraction):
    k, n = fraction
    assert any(
        value == pytest.approx(100 * k / n)
        for value in possible_accuracies(round(100 * k / n, 2), n)
    )


def test_the_wilson_interval_of_the_papers_accuracy():
    low, high = wilson(1091, 1440)
    assert (round(low, 1), round(high, 1)) == (73.5, 77.9)
    centre, z = 1091 / 1440, stats.norm.ppf(0.975)
    # Both ends solve (p - k/n)^2 = z^2 p (1 - p) / n.
    for p in (low / 100, high / 100):
        assert (p - centre) ** 2 == pytest.approx(z**2 * p * (1 - p) / 1440)
