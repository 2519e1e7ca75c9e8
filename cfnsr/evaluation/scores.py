"""How well a row does, how certain that is, and whether two rows differ.

Every function takes the runs of one row, several folds and seeds, and one of the rules of
`selection`. Clips of one actor are alike, so whatever is resampled here is resampled by actor.
Where a number is not defined (no run, one actor, one fold) it is nan.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd

from cfnsr.evaluation.selection import Rule, with_epochs
from cfnsr.evaluation.uncertainty import LEVEL, actor_interval, ratio, sign_flip_p_value
from cfnsr.training.runs import CLIP_COLUMNS, Run

N_BINS = 15
_OUTCOME_COLUMNS = ("fold", "seed", *CLIP_COLUMNS, "predicted", "correct", "confidence", "weight")


@dataclass(frozen=True)
class Score:
    """One row under one rule.

    Attributes:
        accuracy_pct: mean over runs (folds and seeds) of each run's accuracy.
        sd_pct: sample standard deviation over runs.
        ci_low_pct, ci_high_pct: 95 % interval of the accuracy, see `actor_interval`.
        uar_pct: recall averaged over the emotions that occur, over all runs together.
        macro_f1_pct: F1 averaged likewise.
        ece: expected calibration error, 0 to 1, see `reliability`.
        n_clips: distinct test clips.
    """

    rule: Rule
    accuracy_pct: float
    sd_pct: float
    ci_low_pct: float
    ci_high_pct: float
    uar_pct: float
    macro_f1_pct: float
    ece: float
    n_folds: int
    n_clips: int
    n_seeds: int


@dataclass(frozen=True)
class PairedTest:
    """Accuracy of a row minus that of another on the same clips.

    Attributes:
        difference_pct: with a 95 % interval resampled by actor.
        p_value: two-sided, by sign flips over actors.
        p_value_folds: likewise over folds, whose actors share networks and, where the rule chooses
            it for each fold, the epoch. The smallest of six folds is 0.03.
    """

    rule: Rule
    difference_pct: float
    ci_low_pct: float
    ci_high_pct: float
    p_value: float
    p_value_folds: float
    n_actors: int
    n_clips: int


def outcomes(runs: Sequence[Run], rule: Rule) -> pd.DataFrame:
    """What each run says of each of its test clips at its epoch, one line per run and clip.

    Columns: fold, seed, clip, actor, emotion, predicted, correct, confidence (the largest softmax
    probability) and weight, the clip's share in the mean over runs: the weights of the correct
    lines add up to the accuracy.
    """
    chosen = with_epochs(runs, rule)
    if not chosen:
        return pd.DataFrame(columns=list(_OUTCOME_COLUMNS), dtype=float)
    tables = []
    for run, epoch in chosen:
        clips = run.test.clips[list(CLIP_COLUMNS)]
        table = clips.assign(
            fold=run.fold,
            seed=run.seed,
            predicted=run.test.predicted[epoch - 1],
            confidence=run.test.confidence[epoch - 1],
            weight=1 / (len(chosen) * len(clips)),
        )
        tables.append(table.assign(correct=table["predicted"] == table["emotion"]))
    return pd.concat(tables, ignore_index=True)[list(_OUTCOME_COLUMNS)]


def score(runs: Sequence[Run], rule: Rule) -> Score:
    """Accuracy of a row under a rule, with its spread, interval, UAR, F1 and calibration.

    Runs to which the rule does not apply are left out (`with_epochs`); `n_folds` and `n_seeds`
    say what remains.
    """
    lines = outcomes(runs, rule)
    if lines.empty:
        return Score(rule, nan, nan, nan, nan, nan, nan, nan, 0, 0, 0)
    accuracy = lines.groupby(["fold", "seed"])["correct"].mean()
    weight = lines["weight"]
    _, low, high = ratio(weight * lines["correct"], weight, lines["actor"])
    counts = confusion(lines, runs[0].corpus.emotions)
    hits, n_true, n_predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    filled = reliability(lines).query("n > 0")
    gap = (filled["accuracy"] - filled["confidence"]).abs()
    f1 = (2 * hits / (n_true + n_predicted.to_numpy())).where(n_true.to_numpy() > 0)
    return Score(
        rule=rule,
        accuracy_pct=100 * float(accuracy.mean()),
        sd_pct=100 * float(accuracy.std()),
        ci_low_pct=100 * low,
        ci_high_pct=100 * high,
        uar_pct=100 * float((hits / n_true).mean()),
        macro_f1_pct=100 * float(f1.mean()),
        ece=float((gap * filled["n"]).sum(skipna=False) / filled["n"].sum()),
        n_folds=lines["fold"].nunique(),
        n_clips=lines["clip"].nunique(),
        n_seeds=lines["seed"].nunique(),
    )


def paired_test(a: pd.DataFrame, b: pd.DataFrame, rule: Rule) -> PairedTest:
    """Compare the `outcomes` of two rows on the clips that both have, by sign flips over actors.

    Of a fold's runs those of the seeds that both rows have are compared, since fusion rows of one
    seed start from the same encoders; all where they have none in common. Seeds are averaged per
    clip first, then clips within folds, then folds. Under the null
    hypothesis the rows are exchangeable within an actor, so the sign of an actor's difference is
    arbitrary. The smallest p value of n actors is 2 / 2^n: with the four actors of a single fold
    no difference reaches 5 %. Without common clips, the difference and its p value are nan.
    """
    return compare_clips(per_clip(a, seeds_of(b)), per_clip(b, seeds_of(a)), rule)


def seeds_of(lines: pd.DataFrame) -> frozenset[tuple[int, int]]:
    """Each fold of some `outcomes` with each of its seeds."""
    return frozenset(zip(lines["fold"], lines["seed"], strict=True))


def per_clip(lines: pd.DataFrame, of_other: frozenset[tuple[int, int]]) -> pd.Series:
    """How often `outcomes` have each clip right, by fold, actor and clip.

    A mean over the seeds that another row has too, or over all of a fold without such a seed.
    """
    runs = zip(lines["fold"], lines["seed"], strict=True)
    is_common = pd.Series([run in of_other for run in runs], lines.index, dtype=bool)
    has_common = is_common.groupby(lines["fold"]).transform("any")
    counted = lines[is_common | ~has_common.astype(bool)]
    return counted.groupby(["fold", "actor", "clip"])["correct"].mean()


def compare_clips(a: pd.Series, b: pd.Series, rule: Rule) -> PairedTest:
    """`paired_test` of two rows, each `per_clip`."""
    a, b = a.align(b, join="inner")
    if a.empty:
        return PairedTest(rule, nan, nan, nan, nan, nan, 0, 0)
    # Numbers in place of labels: pandas' own sums by group take four times as long.
    fold, actor = (
        np.unique(a.index.get_level_values(name), return_inverse=True)[1]
        for name in ("fold", "actor")
    )
    n_clips_of_fold = np.bincount(fold)
    weight = 1 / (n_clips_of_fold[fold] * len(n_clips_of_fold))
    difference = (a - b).to_numpy() * weight
    by_actor = np.bincount(actor, difference)
    low, high = actor_interval(by_actor, np.bincount(actor, weight))
    return PairedTest(
        rule=rule,
        difference_pct=100 * float(by_actor.sum()),
        ci_low_pct=100 * low,
        ci_high_pct=100 * high,
        p_value=sign_flip_p_value(by_actor),
        p_value_folds=sign_flip_p_value(np.bincount(fold, difference)),
        n_actors=len(by_actor),
        n_clips=a.index.get_level_values("clip").nunique(),
    )


def win_matrix(tests: pd.DataFrame) -> pd.DataFrame:
    """Wins, ties and losses of one rule out of `tables.all_pairs`, (row, row).

    1 where the line's row beats the column's at 5 % after Holm's correction, -1 where it loses, 0
    for a tie, nan on the diagonal.
    """
    rows = list(dict.fromkeys([*tests["row_a"], *tests["row_b"]]))
    matrix = pd.DataFrame(np.nan, index=rows, columns=rows)
    outcome = np.sign(tests["difference_pct"]).where(tests["p_holm"] < LEVEL, 0)
    for a, b, value in zip(tests["row_a"], tests["row_b"], outcome, strict=True):
        matrix.loc[a, b], matrix.loc[b, a] = value, -value
    return matrix


def confusion(lines: pd.DataFrame, emotions: Sequence[str]) -> pd.DataFrame:
    """Number of clips by (true, predicted) emotion; a clip of several seeds is shared out.

    Args:
        lines: see `outcomes`.
        emotions: of the corpus.
    """
    n = len(emotions)
    pairs = lines["emotion"].to_numpy(int) * n + lines["predicted"].to_numpy(int)
    counts = np.bincount(pairs, _share(lines), minlength=n * n).reshape(n, n)
    index = pd.Index(emotions, name="true")
    return pd.DataFrame(counts, index=index, columns=pd.Index(emotions, name="predicted"))


def actual_and_predicted(runs: Sequence[Run], rule: Rule) -> pd.DataFrame:
    """One line a clip and run, as `dvc plots` counts confusions: actual, predicted (names)."""
    lines = outcomes(runs, rule)
    names = dict(enumerate(runs[0].corpus.emotions))
    return pd.DataFrame(
        {"actual": lines["emotion"].map(names), "predicted": lines["predicted"].map(names)}
    )


def reliability(lines: pd.DataFrame) -> pd.DataFrame:
    """Accuracy against confidence in 15 equal bins (Guo et al., 2017, section 2), of `outcomes`.

    Columns: low and high (bin edges, 0 to 1), n (clips; one of several seeds is shared out),
    confidence and accuracy (means over the bin, nan in an empty one). The mean of
    |accuracy - confidence|, weighted by n, is the expected calibration error.
    """
    edges = np.linspace(0, 1, N_BINS + 1)
    confidence = lines["confidence"].to_numpy(float)
    in_bin = np.digitize(confidence, edges[1:-1], right=True)
    share = _share(lines)
    n = pd.Series(np.bincount(in_bin, share, N_BINS))
    return pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "n": n,
            "confidence": np.bincount(in_bin, share * confidence, N_BINS) / n,
            "accuracy": np.bincount(in_bin, share * lines["correct"].to_numpy(float), N_BINS) / n,
        }
    )


def per_epoch(runs: Sequence[Run]) -> pd.DataFrame:
    """Test accuracy after each epoch, of the runs that got there: epoch, accuracy_pct, sd_pct."""
    # epoch run; shorter runs end in nan
    table = pd.DataFrame({k: pd.Series(run.test.accuracy_pct) for k, run in enumerate(runs)})
    return pd.DataFrame(
        {
            "epoch": np.arange(1, len(table) + 1),
            "accuracy_pct": table.mean(axis=1),
            "sd_pct": table.std(axis=1),
        }
    )


def _share(lines: pd.DataFrame) -> np.ndarray:
    """Of each line in its clip, which has one line a seed."""
    return 1 / lines.groupby("clip")["clip"].transform("size").to_numpy(float)
