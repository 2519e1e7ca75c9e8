"""What the paper's tables say by arithmetic alone: possible counts, claims, resolution.

Table values are those of `cfnsr.models.registry`; `released_log` looks at the training log.
"""

from math import nan, sqrt

import numpy as np
import pandas as pd
from scipy import optimize, stats

from cfnsr.data.corpora.ravdess import CLIPS_PER_FOLD, CORPUS, N_FOLDS
from cfnsr.evaluation.uncertainty import LEVEL, possible_accuracies, wilson
from cfnsr.models.registry import REFERENCE, TABLE_1, TABLE_2, find

#: 1,440 clips of all six folds, and 1,200 of the five that the paper tests.
N_CLIPS = N_FOLDS * CLIPS_PER_FOLD
N_CLIPS_TESTED = len(CORPUS.folds("paper")) * CLIPS_PER_FOLD

POWER = 0.8
#: How far two systems are right on the same clips: assumed, as no prediction was published.
TYPICAL_CORRELATION = 0.5
_ROUNDING = 1e-9


def possible_rows() -> pd.DataFrame:
    """Whether each printed accuracy can be a number of clips out of 1440 or of 1200.

    Columns: table, row, accuracy_pct, possible_of_1440, possible_of_1200. A mean over equal
    folds is the share of all their clips, so one of the two should be possible.
    """
    return pd.DataFrame(
        {
            "table": table,
            "row": name,
            "accuracy_pct": row.paper_accuracy_pct,
            "possible_of_1440": bool(possible_accuracies(_accuracy(name), N_CLIPS)),
            "possible_of_1200": bool(possible_accuracies(_accuracy(name), N_CLIPS_TESTED)),
        }
        for table, rows in enumerate((TABLE_1, TABLE_2), start=1)
        for name, row in rows.items()
    )


def holds(said: str, in_tables: float) -> bool:
    """Whether a number of the text is the tables', to its printed decimals; "> 2" is a bound."""
    number = said.removeprefix("> ")
    if number != said:
        return in_tables > float(number) + _ROUNDING
    half_a_digit = 0.5 * 10.0 ** -len(number.partition(".")[2])
    return abs(in_tables - float(number)) <= half_a_digit + _ROUNDING


def text_claims() -> pd.DataFrame:
    """Every number of sections 3.4 and 3.5 that the tables can confirm or contradict.

    Columns: section, claim, unit, said, in_tables, holds.
    """
    own = _accuracy(REFERENCE)
    unimodal = max(_accuracy("video"), _accuracy("audio"))
    early = max(_accuracy(name) for name, row in TABLE_1.items() if row.fusion_stage == "Early")
    other = max(_accuracy(name) for name in TABLE_1 if name != REFERENCE)
    splicing = _accuracy("no_cross_modal")
    unattended = _accuracy("no_self_attention")
    no_residual = _accuracy("no_residual")
    v_to_a, a_to_v = _accuracy("video_to_audio"), _accuracy("audio_to_video")
    counts = (find(name).paper_params_millions or nan for name in (REFERENCE, "no_cross_modal"))
    block = next(counts) - next(counts)
    claims = (
        ("3.4", "better than one modality by", "points", "> 10", own - unimodal),
        ("3.4", "the cross-modal block costs", "M parameters", "0.03", block),
        ("3.4", "better than early fusion by", "points", "> 4", own - early),
        ("3.4", "better than MMTM by", "points", "2.64", own - _accuracy("mmtm")),
        ("3.4", "better than MSAF by", "points", "0.9", own - _accuracy("msaf")),
        ("3.5", "the cross-modal block brings", "points", "> 2", own - splicing),
        ("3.5", "the cross-modal block costs", "M parameters", "0.4", block),
        ("3.5", "splicing beats early fusion by", "points", "> 0", splicing - early),
        ("3.5", "self-attention brings", "points", "> 2", own - unattended),
        ("3.5", "without residual still best by", "points", "> 0", no_residual - other),
        ("3.5", "V->A is the final model; gap", "points", "0.00", own - v_to_a),
        ("3.5", "V->A and A->V differ by", "points", "1.6", abs(v_to_a - a_to_v)),
    )
    table = pd.DataFrame(claims, columns=["section", "claim", "unit", "said", "in_tables"])
    return table.assign(holds=list(map(holds, table["said"], table["in_tables"])))


def resolution() -> pd.DataFrame:
    """What 1,440 clips say of each printed accuracy, and whether it differs from CFN-SR's.

    Columns: row, accuracy_pct, ci_low_pct, ci_high_pct (95 % Wilson interval),
    resolved_from_cfn_sr (p < 0.05 in the unpaired test of two proportions, without correction for
    the number of rows). Clips count as independent, which those of one actor are not: the true
    intervals are wider. A row listed twice stands once.
    """
    n_correct = _n_correct(REFERENCE)
    intervals = {name: wilson(_n_correct(name), N_CLIPS) for name in _distinct_rows()}
    return pd.DataFrame(
        {
            "row": name,
            "accuracy_pct": _accuracy(name),
            "ci_low_pct": low,
            "ci_high_pct": high,
            "resolved_from_cfn_sr": unpaired_p_value(_n_correct(name), n_correct) < LEVEL,
        }
        for name, (low, high) in intervals.items()
    )


def unpaired_p_value(n_correct: int, n_correct_other: int) -> float:
    """Two-sided p value of the z test of two proportions, each of 1,440 clips."""
    right = np.array([n_correct, n_correct_other])
    return float(stats.chi2_contingency([right, N_CLIPS - right], correction=False).pvalue)


def agreement_needed() -> pd.DataFrame:
    """On how many clips a row and CFN-SR may disagree if a paired test is to tell them apart.

    Columns: row, difference_points (CFN-SR minus the row), p_unpaired, disagree_if_independent_pct
    (share of clips on which exactly one is right if their errors are unrelated),
    disagree_at_most_pct (see `most_discordant`; nan where no agreement suffices).
    """
    best, n_correct = _accuracy(REFERENCE) / 100, _n_correct(REFERENCE)
    shares = {name: _accuracy(name) / 100 for name in _distinct_rows() if name != REFERENCE}
    return pd.DataFrame(
        {
            "row": name,
            "difference_points": 100 * (best - p),
            "p_unpaired": unpaired_p_value(_n_correct(name), n_correct),
            "disagree_if_independent_pct": 100 * (best * (1 - p) + p * (1 - best)),
            "disagree_at_most_pct": 100 * most_discordant(n_correct, _n_correct(name)) / N_CLIPS,
        }
        for name, p in shares.items()
    )


def most_discordant(n_correct: int, n_correct_other: int, n: int = N_CLIPS) -> float:
    """The most clips that one system alone may have right and McNemar's exact test still resolve.

    nan where the difference is too small for any number.

    >>> most_discordant(106, 100, 200)
    6.0
    """
    difference = abs(n_correct - n_correct_other)
    together = n_correct + n_correct_other
    discordant = np.arange(difference, min(together, 2 * n - together) + 1, 2)
    won = (discordant + difference) // 2
    p_values = 2 * stats.binom.sf(won - 1, discordant, 0.5)
    resolved = discordant[p_values < LEVEL]
    return float(resolved[-1]) if difference and len(resolved) else nan


def smallest_differences() -> pd.DataFrame:
    """Which true differences below CFN-SR's accuracy 1,440 clips resolve, by how alike systems err.

    Columns: comparison, disagree_pct (the share of clips on which exactly one is right, at the
    difference of the last column), found_in_50_pct_points (what half of all samples find at
    p < 0.05; an observed one is significant from about there on), found_in_80_pct_points.
    """
    own = _accuracy(REFERENCE)
    lines = []
    for name, correlation in {
        "unpaired": 0.0,
        f"paired, correlation {TYPICAL_CORRELATION} (assumed)": TYPICAL_CORRELATION,
    }.items():
        often = smallest_difference(own, correlation=correlation)
        disagreement = _variance(own, often, correlation) + (often / 100) ** 2
        in_half = smallest_difference(own, power=0.5, correlation=correlation)
        lines.append((name, 100 * disagreement, in_half, often))
    often = best_case_difference()
    lines.append(("paired, best case", often, best_case_difference(power=0.5), often))
    columns = ["comparison", "disagree_pct", "found_in_50_pct_points", "found_in_80_pct_points"]
    return pd.DataFrame(lines, columns=columns)


def smallest_difference(
    accuracy_pct: float, n: int = N_CLIPS, power: float = POWER, correlation: float = 0.0
) -> float:
    """The smallest true difference, in points, that a test at 5 % finds below an accuracy.

    Solves δ = (z_{0.975} + z_power) √(v(δ) / n), with v the variance of one clip's difference,
    p₁(1-p₁) + p₂(1-p₂) - 2ρ √(p₁(1-p₁) p₂(1-p₂)) and p₂ = p₁ - δ.

    Args:
        accuracy_pct: the better system's accuracy, 100 p₁.
        n: test clips.
        power: probability of a significant result.
        correlation: ρ of the two systems' being right on a clip; 0 for unpaired data.
    """
    z = stats.norm.ppf(1 - LEVEL / 2) + stats.norm.ppf(power)

    def excess(points: float) -> float:
        return points / 100 - z * sqrt(_variance(accuracy_pct, points, correlation) / n)

    return float(optimize.brentq(excess, 0, accuracy_pct))


def best_case_difference(power: float = POWER) -> float:
    """The same in the best of cases: the better system is right wherever the other is; exact.

    Then every clip that tells them apart speaks for the same side, and six are significant.
    """
    n_needed = next(k for k in range(1, N_CLIPS) if 2 * 0.5**k < LEVEL)
    share = optimize.brentq(lambda p: stats.binom.sf(n_needed - 1, N_CLIPS, p) - power, 0, 1)
    return 100 * float(share)


def _variance(accuracy_pct: float, points: float, correlation: float) -> float:
    """Variance of the difference of two systems on one clip."""
    better, worse = accuracy_pct / 100, (accuracy_pct - points) / 100
    first, second = better * (1 - better), worse * (1 - worse)
    return first + second - 2 * correlation * sqrt(first * second)


def _distinct_rows() -> list[str]:
    return [name for name, row in (TABLE_1 | TABLE_2).items() if row.alias is None]


def _accuracy(name: str) -> float:
    return find(name).paper_accuracy_pct or nan  # every row of the tables has one


def _n_correct(name: str) -> int:
    """The number of 1,440 clips nearest to the printed accuracy."""
    return round(_accuracy(name) * N_CLIPS / 100)
