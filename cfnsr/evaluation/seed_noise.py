"""Whether two trainings differ by more than another seed would make them.

Trainings that differ in the seed or the processor alone are exchangeable: a clip that only one of
them classifies rightly is as likely to be the one's as the other's. An actor-level test of two
systems (`scores.paired_test`) would take the noise of training for a difference; hence the tests of
`another_seed` for a row, and of `surer_actors` for all rows.

The constants are measured between three seeds of nine rows on RAVDESS's voices and landmarks
(folds of 60 clips per actor, and of 15 drawn from them, as the control has). They are assumptions
for any other data; where seeds are published, the spread between those replaces two of them. The
rate of false alarms of all tests together has not been measured. With 15 clips per actor, one that
leaked is mostly missed in one row; one leaked in every fold is seen over the control's rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from cfnsr.evaluation.selection import Rule
from cfnsr.evaluation.uncertainty import LEVEL
from cfnsr.training.runs import Run

SIDES = ("here", "published")

#: Correlation between the clips of a run on which two seeds differ: who is right on one tends to
#: be right on the next.
_RUN_CORRELATION: Mapping[Rule, float] = {
    "best test epoch": 0.02,
    "last epoch": 0.05,
    "chosen on other folds": 0.05,
    "chosen on validation actors": 0.03,
}
#: The same between the clips of an actor, and the share of an actor's errors that another seed
#: mends; fewer are mended where only the processor differs, but unevenly over folds.
_ACTOR_CORRELATION = 0.1
_MENDED = 0.3
#: The least agreement beyond chance between two seeds of any row (video).
AGREEMENT = 0.18
#: Below this accuracy two seeds of a system need not agree, so their agreement is not asked for.
_AGREEING = 0.4
#: The correlation between two rows of what another seed changes in an actor's confidence, which
#: they share through their encoders; 0.08 to 0.28 were measured.
_ROW_CORRELATION = 0.3
_N_SIMULATED = 5000
#: Confidences are kept with three decimals, so none is taken for nearer to 0 or 1 than this.
_LEAST_DOUBT = 5e-4
#: From so many pairs of runs the spread between published seeds is estimated.
_FEWEST_PAIRS = 20
#: How the level is shared out. The last two are decisive where they apply, so little is enough.
_SHARE = {"accuracy": 0.8, "actor": 0.1, "agreement": 0.1}


def another_seed(decisions: pd.DataFrame, correlation: float, agreement: float) -> dict[str, Any]:
    """Whether another seed would change as much: difference, interval, p value and its reason.

    * Accuracy: of the D clips of a run that one side alone has right, the signed sum has variance
      D + r D (D - 1), r being their correlation; r = 0 is McNemar's test.
    * Actor: of an actor's errors on one side, the number that the other has right is
      beta-binomial around the share among the other actors; the largest of all actors and both
      directions, with Bonferroni's correction.
    * Agreement: Cohen's kappa within true emotions must not lie below that of two seeds; its
      standard error is by actor. Not asked of systems near chance.

    The p value is the smallest of the three, each divided by its share of the level.

    Args:
        decisions: one line per clip and pair of runs: fold, seed, actor, clip, emotion (index),
            and of each side predicted_here, predicted_published (likewise), correct_here and
            correct_published.
        correlation: r.
        agreement: the kappa of two seeds.
    """
    runs = _of_runs(decisions)
    difference = float((runs["signed"] / runs["n"]).sum()) / len(runs)
    variance = runs["differing"] + correlation * runs["differing"] * (runs["differing"] - 1)
    error = float(np.sqrt((variance / runs["n"] ** 2).sum())) / len(runs)
    actor, p_actor = _actor_test(decisions)
    found, kappa_error = kappa(decisions)
    accuracies = decisions[["correct_here", "correct_published"]].mean()
    is_asked = kappa_error > 0 and accuracies.max() > _AGREEING
    p_values = {
        "accuracy": 2 * stats.norm.sf(abs(difference) / error) if error > 0 else 1.0,
        f"actor {actor}": p_actor,
        "agreement": stats.norm.cdf((found - agreement) / kappa_error) if is_asked else 1.0,
    }
    shared = {reason: p / _SHARE[reason.split()[0]] for reason, p in p_values.items()}
    reason = min(shared, key=lambda name: shared[name])
    width = stats.norm.isf(LEVEL / 2) * error
    return {
        "difference_pct": 100 * difference,
        "ci_low_pct": 100 * (difference - width),
        "ci_high_pct": 100 * (difference + width),
        "p_value": min(1.0, float(shared[reason])),
        "reason": reason,
    }


def confidence_changes(pairs: Mapping[str, Sequence[tuple[Run, Run]]]) -> pd.DataFrame:
    """How much surer rows are of an actor's clips here than published, in the last epoch.

    Returns:
        Lines (fold, actor), a column per row: change of the decisions' mean log odds. Without
        folds of one actor and without rows that did not change.
    """
    changes = [
        here.test.clips[["actor"]].assign(
            row=row, fold=here.fold, change=_log_odds(here) - _log_odds(there)
        )
        for row, found in pairs.items()
        for here, there in found
    ]
    if not changes:
        return pd.DataFrame()
    of_actors = pd.concat(changes).pivot_table("change", ["fold", "actor"], "row").dropna()
    of_actors = of_actors.groupby("fold").filter(lambda fold: len(fold) > 1)
    return of_actors.loc[:, (of_actors != 0).any()]


def surer_actors(changes: pd.DataFrame) -> tuple[str, float]:
    """The actors of whom all rows are surer on one side, and the p value of both directions.

    A leaked actor may change few decisions of a system that is mostly right, but every row becomes
    surer of that actor's clips, and of no others of the fold. So the statistic is the sum over
    folds of the square of the largest mean over rows. It is compared with simulated changes of
    another seed, normal and correlated between rows by `_ROW_CORRELATION`.
    """
    fold, actors = (changes.index.get_level_values(name) for name in ("fold", "actor"))
    groups = [np.flatnonzero(fold == name) for name in fold.unique()]
    rng = np.random.default_rng(0)
    n_actors, n_rows = changes.shape
    shared = rng.normal(size=(_N_SIMULATED, n_actors, 1))
    own = rng.normal(size=(_N_SIMULATED, n_actors, n_rows))
    simulated = np.sqrt(_ROW_CORRELATION) * shared + np.sqrt(1 - _ROW_CORRELATION) * own
    here, by_seed = (_standing_out(x, groups) for x in (changes.to_numpy()[None], simulated))
    sides = [_leading(sign * here[0], sign * by_seed, groups) for sign in (1, -1)]
    p_value, found = min(sides, key=lambda side: side[0])
    names = ", ".join(str(actors[k]) for k in found)
    return f"actors {names}", min(1.0, 2 * p_value)


def correlation(seeds: Sequence[pd.DataFrame], rule: Rule) -> float:
    """Between the clips of a run, from pairs of published seeds if there are enough."""
    runs = pd.concat(map(_of_runs, seeds)) if seeds else None
    if runs is None or (runs["differing"] > 1).sum() < _FEWEST_PAIRS:
        return _RUN_CORRELATION[rule]
    signed, differing = runs["signed"], runs["differing"]
    return max(0.0, float((signed**2 - differing).sum() / (differing**2 - differing).sum()))


def kappa(decisions: pd.DataFrame) -> tuple[float, float]:
    """Agreement beyond that of two systems independent within each emotion; its error by actor."""
    sides = [f"predicted_{side}" for side in SIDES]
    is_equal = (decisions[sides[0]] == decisions[sides[1]]).to_numpy(float)
    n_emotions = int(decisions[sides].to_numpy().max()) + 1
    one_hot = [np.eye(n_emotions)[decisions[side]] for side in sides]
    emotion = decisions["emotion"].to_numpy(int)
    shares = [pd.DataFrame(said).groupby(emotion).transform("mean").to_numpy() for said in one_hot]
    by_chance = (shares[0] * shares[1]).sum(axis=1)
    room = (1 - by_chance).sum()
    if room == 0:  # both always name one and the same
        return 1.0, 0.0
    kappa = float((is_equal - by_chance).sum() / room)
    residual = pd.Series(is_equal - by_chance - kappa * (1 - by_chance))
    of_actors = residual.groupby(decisions["actor"].to_numpy()).sum()
    return kappa, float(np.sqrt((of_actors**2).sum()) / room)


def _of_runs(decisions: pd.DataFrame) -> pd.DataFrame:
    """Of each run: clips n, `signed` right here minus right there, `differing` where one is."""
    here, there = decisions["correct_here"], decisions["correct_published"]
    counted = decisions.assign(n=1.0, signed=here.astype(float) - there, differing=here ^ there)
    return counted.groupby(["fold", "seed"])[["n", "signed", "differing"]].sum()


def _actor_test(decisions: pd.DataFrame) -> tuple[Any, float]:
    """The actor that stands out most, and its p value over all actors and both directions."""
    code, names = pd.factorize(decisions["actor"])
    here, there = (decisions[f"correct_{side}"].to_numpy() for side in SIDES)
    p_values = []
    for before, after in ((there, here), (here, there)):
        wrong = np.bincount(code, ~before)
        mended = np.bincount(code, ~before & after)
        others = (mended.sum() - mended + 0.5) / (wrong.sum() - wrong + 1)
        share = np.maximum(others, _MENDED)
        strength = 1 / _ACTOR_CORRELATION - 1
        a, b = share * strength, (1 - share) * strength
        p_values.append(stats.betabinom.sf(mended - 1, wrong.astype(int), a, b))
    p = np.minimum(*p_values)
    return names[p.argmin()], min(1.0, float(p.min()) * 2 * len(names))


def _log_odds(run: Run) -> np.ndarray:
    confidence = run.test.confidence[-1].clip(_LEAST_DOUBT, 1 - _LEAST_DOUBT)
    return np.log(confidence / (1 - confidence))


def _standing_out(changes: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over rows of (sample, actor, row) against the median of the actor's group.

    In units of the median distance, which a few leaked actors hardly move; a row that changed for
    few actors alone says nothing.
    """
    centred = np.empty_like(changes)
    for group in groups:
        of_group = changes[:, group]
        centred[:, group] = of_group - np.median(of_group, axis=1, keepdims=True)
    distance = np.median(np.abs(centred), axis=1, keepdims=True)
    return np.divide(centred, distance, out=np.zeros_like(centred), where=distance > 0).mean(axis=2)


def _leading(
    here: np.ndarray, by_seed: np.ndarray, groups: Sequence[np.ndarray]
) -> tuple[float, list[int]]:
    """The p value of one direction, and the first actor of each fold where one stands out."""
    tops, usual = (
        np.stack([side[..., group].max(axis=-1) for group in groups], axis=-1)
        for side in (here, by_seed)
    )
    n_beyond = int(((usual**2).sum(axis=1) >= (tops**2).sum()).sum())
    stands_out = tops > np.quantile(usual, 1 - LEVEL)
    stands_out[tops.argmax()] = True
    found = [
        int(group[here[group].argmax()])
        for group, is_far in zip(groups, stands_out, strict=True)
        if is_far
    ]
    return (1 + n_beyond) / (1 + len(by_seed)), found
