"""What a number of actors or clips can tell: intervals, tests, possible percentages.

Plain numbers in, plain numbers out; `cfnsr.evaluation.scores` applies them to runs.
"""

from functools import lru_cache
from math import nan, sqrt

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

N_RESAMPLES = 10_000
N_SIGN_FLIPS = 20_000
LEVEL = 0.05
_SEED = 0
#: All sign flips of so many actors are the sums of two halves of 2**20 each.
_MOST_ACTORS_EXACT = 40


def actor_interval(correct: ArrayLike, total: ArrayLike) -> tuple[float, float]:
    """95 % bootstrap interval of sum(correct) / sum(total), resampling actors with replacement.

    All clips of an actor, over all seeds, move together. The percentiles are those of the expanded
    percentile interval (Hesterberg, "What teachers should know about the bootstrap", The American
    Statistician 69, 2015): level Φ(t_{0.025, G-1} √(G / (G-1))) in place of 0.025
    for G actors, since the plain one is too short for few actors. Simulated coverage is 94 to 96 %
    with 20 or 24 actors of 60 clips, against 92 to 93 % of the plain percentiles, but only 90 %
    with the four actors of a single fold. Where all actors do equally well, it has no width.

    The resamples re-use each run's model and epoch: neither is trained or chosen anew, so the
    interval speaks of other actors, not of other trainings, and does not undo the optimism of
    `best test epoch`. The generator's seed is fixed, so equal runs give equal intervals.

    Args:
        correct: weight of the rightly classified clips of each actor, (actor,).
        total: weight of all clips of each actor, (actor,).

    Returns:
        Both ends, or nan with fewer than two actors.
    """
    actors = np.stack([np.asarray(correct), np.asarray(total)], axis=1)  # actor 2
    n_actors = len(actors)
    if n_actors < 2:
        return nan, nan
    level = stats.norm.cdf(stats.t.ppf(LEVEL / 2, n_actors - 1) * sqrt(n_actors / (n_actors - 1)))
    resampled_correct, resampled_total = (_resamples(n_actors) @ actors).T
    low, high = np.quantile(resampled_correct / resampled_total, [level, 1 - level])
    return float(low), float(high)


def ratio(value: ArrayLike, weight: ArrayLike, actor: ArrayLike) -> tuple[float, float, float]:
    """The sum of values over that of weights, all (clip,), and its `actor_interval`."""
    values, weights = np.asarray(value), np.asarray(weight)
    sums = pd.DataFrame({"value": values, "weight": weights}).groupby(np.asarray(actor)).sum()
    return float(values.sum() / weights.sum()), *actor_interval(sums["value"], sums["weight"])


def sign_flip_p_value(differences: ArrayLike) -> float:
    """Two-sided p value of sum(differences) among the sums with signs flipped at will.

    Exact for up to 40 actors: the 2^n sums are those of two halves, of which one is sorted.
    Beyond, 20,000 random sign flips from a fixed seed.

    >>> sign_flip_p_value([3, 1, 2])
    0.25
    """
    values = np.asarray(differences, dtype=float)
    # Sums in another order may differ by rounding of the last bits; that is a tie.
    observed = abs(values.sum()) - 1e-12 * np.abs(values).sum()
    if len(values) > _MOST_ACTORS_EXACT:
        signs = np.random.default_rng(_SEED).choice([-1.0, 1.0], (N_SIGN_FLIPS, len(values)))
        n_extreme = np.count_nonzero(np.abs(signs @ values) >= observed)
        return float((n_extreme + 1) / (N_SIGN_FLIPS + 1))
    half = len(values) // 2
    first, second = _signed_sums(values[:half]), np.sort(_signed_sums(values[half:]))
    n_above = second.size * first.size - np.searchsorted(second, observed - first).sum()
    return min(1.0, float(2 * n_above / 2 ** len(values)))


def holm(p_values: ArrayLike) -> np.ndarray:
    """p values corrected for their number (Holm, 1979); nan stays nan and does not count."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)  # nan last
    n_left = np.count_nonzero(~np.isnan(p)) - np.arange(p.size)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * n_left))
    return corrected


def wilson(n_correct: int, n: int) -> tuple[float, float]:
    """95 % Wilson interval of n_correct of n clips, in percent, as if clips were independent."""
    interval = stats.binomtest(n_correct, n).proportion_ci(1 - LEVEL, method="wilson")
    return 100 * float(interval.low), 100 * float(interval.high)


def possible_accuracies(accuracy_pct: float, n: int) -> tuple[float, ...]:
    """The accuracies k / n, in percent, that a published one with two decimals can stand for.

    Empty where no whole number k of n clips rounds to it; an exact half may have been rounded
    either way. For the mean of f equal folds of m clips, n = f m.

    >>> possible_accuracies(73.5, 1200), possible_accuracies(73.5, 1440)
    ((73.5,), ())
    """
    hundredths = round(100 * accuracy_pct)
    nearby = range(n * (hundredths - 1) // 10_000, n * (hundredths + 1) // 10_000 + 1)
    # In integers, so that halves are exact: |10,000 k / n - hundredths| <= 1/2.
    return tuple(100 * k / n for k in nearby if 2 * abs(10_000 * k - hundredths * n) <= n)


@lru_cache(maxsize=4)
def _resamples(n_actors: int) -> np.ndarray:
    """How often each actor is drawn, (resample, actor)."""
    generator = np.random.default_rng(_SEED)
    draws = generator.multinomial(n_actors, np.full(n_actors, 1 / n_actors), N_RESAMPLES)
    return draws.astype(float)


def _signed_sums(values: np.ndarray) -> np.ndarray:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return sums
