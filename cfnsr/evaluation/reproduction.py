"""Whether predictions agree with published ones: same bits, same decisions, or like another seed.

    python -m cfnsr compare [REVISION]

compares figures/<data>/predictions/<protocol> with what git holds of it, run by run (row, fold,
seed), and gives each row and rule one of `VERDICTS`. A seed that only one side has is paired, in
order, with one of the same fold that only the other has, so another seed can be compared too.

The third verdict needs a test. Trainings that differ in the seed or the processor alone are
exchangeable: a clip that only one of them classifies rightly is as likely to be the one's as the
other's. An actor-level test of two systems (`scores.paired_test`) would take the noise of training
for a difference, so `another_seed` has three tests of its own, two-sided or symmetric: of the
accuracy, of each actor, where a leaked one stands out, and of the agreement, which a network that
sees the wrong modality loses at the same accuracy.

A leaked actor may change few decisions of a system that is mostly right, but every row becomes
surer of that actor's clips, whatever else a seed changes in it. A last line, `ALL_SYSTEMS`, asks
for that: whether the rows agree on the actors whose clips are classified with more confidence.

The constants are measured between three seeds of nine rows on RAVDESS's voices and landmarks
(folds of 60 clips per actor, and of 15 drawn from them, as the control has). They are assumptions
for any other data; where seeds are published, the spread between those replaces two of them. The
rate of false alarms of the whole verdict has not been measured. With 15 clips per actor, one that
leaked is mostly missed in one row; one leaked in every fold is seen over the control's rows.
"""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from cfnsr.data.corpora import Protocol
from cfnsr.errors import InputError
from cfnsr.evaluation import predictions
from cfnsr.evaluation.scores import outcomes, score
from cfnsr.evaluation.selection import RULES, Rule
from cfnsr.evaluation.tables import by_row, paired_tests, verdict
from cfnsr.evaluation.typeset import aligned
from cfnsr.evaluation.uncertainty import LEVEL, holm
from cfnsr.training.runs import Run

#: From best to worst.
VERDICTS = ("same bits", "same decisions", "within what another seed changes", "not reproduced")
_COLUMNS = (
    "row",
    "rule",
    "verdict",
    "published_pct",
    "here_pct",
    "difference_pct",
    "ci_low_pct",
    "ci_high_pct",
    "equal_pct",
    "p_value",
    "p_holm",
    "reason",
    "cell",
)
ALL_SYSTEMS = "all systems"
Pair = tuple[Run, Run]  # here, published
_SIDES = ("here", "published")

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
_AGREEMENT = 0.18
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


@dataclass(frozen=True, eq=False)
class Comparison:
    """Predictions here against published ones.

    Attributes:
        lines: one per row and rule, and one of `ALL_SYSTEMS` where two rows differ. row, rule,
            verdict; published_pct and here_pct, accuracies of the common runs; difference_pct
            with ci_low_pct and ci_high_pct, which hold 95 % of another seed's; equal_pct, clips
            with equal decisions; p_value and p_holm, over the rows of the rule whose decisions
            differ; reason, the test with the smallest p; cell, the table's accuracy: `equal` to
            two decimals, `inside` the published interval by actor or `outside`.
        claims: comparisons with CFN-SR whose `tables.verdict` changed: row, rule, published, here.
        only_here, only_published: rows or runs that the other side lacks.
        explanations: recorded differences between the runs, in words.
    """

    lines: pd.DataFrame
    claims: pd.DataFrame
    only_here: list[str]
    only_published: list[str]
    explanations: list[str]

    @property
    def reproduced(self) -> bool:
        return VERDICTS[-1] not in set(self.lines["verdict"])

    def as_dict(self) -> dict[str, Any]:
        """For json; null for what does not apply."""
        lines, claims = (
            json.loads(table.to_json(orient="records")) for table in (self.lines, self.claims)
        )
        return {"reproduced": self.reproduced} | vars(self) | {"lines": lines, "claims": claims}

    @property
    def worst(self) -> pd.DataFrame:
        """One of `lines` per row: the worst verdict, the smallest p."""
        order = self.lines.assign(rank=-self.lines["verdict"].map(VERDICTS.index))
        order = order.sort_values(["rank", "p_holm"], kind="stable").drop_duplicates("row")
        return order.set_index("row").loc[self.lines["row"].unique()].reset_index()


def published(repository: Path, revision: str, data: str, protocol: str) -> list[Run]:
    """The predictions that git holds at a revision.

    Raises:
        InputError: no such revision, or it has none.
    """
    folder = f"figures/{data}/predictions/{protocol}"
    known = _git(repository, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if known.returncode != 0:
        raise InputError(
            f"git knows no revision {revision} in {repository}; take one of `git log --oneline`, "
            "after `git fetch --unshallow` in a shallow clone"
        )
    with TemporaryDirectory() as name:
        for file in ("clips.csv.gz", "epochs.csv", "runs.csv"):
            shown = _git(repository, "show", f"{revision}:./{folder}/{file}")
            if shown.returncode != 0:
                raise InputError(
                    f"revision {revision} holds no {folder}/{file}; take one of "
                    f"`git log --oneline -- {folder}`, or other --data or --protocol"
                )
            (Path(name) / file).write_bytes(shown.stdout)
        return predictions.read(Path(name))


def compare(here: Sequence[Run], there: Sequence[Run]) -> Comparison:
    """Compare the runs of one protocol with the published ones.

    Raises:
        InputError: they have no row and fold in common.
    """
    pairs = {row: _pairs(runs, by_row(there).get(row, [])) for row, runs in by_row(here).items()}
    pairs = {row: found for row, found in pairs.items() if found}
    if not pairs:
        raise InputError(
            "the published predictions and those here have no row and fold in common; reproduce "
            "one of the published rows"
        )
    lines = pd.concat([_compare_rows(pairs, by_row(there), rule) for rule in RULES])
    every = [pair for found in pairs.values() for pair in found]
    ours, theirs = [run for run, _ in every], [run for _, run in every]
    is_same = bool((lines["verdict"] == VERDICTS[0]).all())
    return Comparison(
        lines.reset_index(drop=True),
        _changed_claims([] if is_same else ours, theirs),
        _lacking(here, there),
        _lacking(there, here),
        _explanations(ours, theirs),
    )


def changed_code(repository: Path, revision: str) -> list[str]:
    """Files of the working tree that determine a training and differ from a revision's."""
    paths = ("cfnsr", "params.yaml", "requirements.lock")
    return _git(repository, "diff", "--name-only", revision, "--", *paths).stdout.decode().split()


def report(found: Comparison, every_rule: bool = False) -> str:
    """A table of rows, or of rows and rules, then what still stands and what may explain it.

    One line per row shows the rule with the worst verdict. A star marks an accuracy outside the
    published interval by actor.
    """
    cells = [["row", "rule", "verdict", "published", "here", "points", "equal", "p", ""]]
    for line in (found.lines if every_rule else found.worst).to_dict("records"):
        is_tested, is_row = not np.isnan(line["p_holm"]), line["row"] != ALL_SYSTEMS
        ends = f" [{line['ci_low_pct']:+.1f}, {line['ci_high_pct']:+.1f}]" if is_tested else ""
        accuracies = [
            f"{line['published_pct']:.2f}",
            f"{line['here_pct']:.2f}{'*' if line['cell'] == 'outside' else ''}",
            f"{line['difference_pct']:+.1f}{ends}",
        ]
        cells.append(
            [
                *(line[name] for name in ("row", "rule", "verdict")),
                *(accuracies if is_row else [""] * 3),
                f"{line['equal_pct']:.1f} %",
                f"{line['p_holm']:.3f}" if is_tested else "",
                line["reason"] if line["verdict"] == VERDICTS[-1] else "",
            ]
        )
    text = [aligned(cells)]
    n_cells = found.lines["cell"].value_counts().reindex(["equal", "inside", "outside"]).fillna(0)
    text.append(
        "accuracies as printed: {:.0f} equal, {:.0f} inside the published interval, "
        "{:.0f} outside".format(*n_cells)
    )
    text.append(f"comparisons with CFN-SR whose verdict changed: {len(found.claims) or 'none'}")
    words = {-1: "worse", 0: "neither", 1: "better"}
    text += [
        f"  {claim['row']}, {claim['rule']}: published {words[claim['published']]}, "
        f"here {words[claim['here']]}"
        for claim in found.claims.to_dict("records")
    ]
    sides = (("here", found.only_here), ("published", found.only_published))
    text += [f"only {side}: {', '.join(names)}" for side, names in sides if names]
    if set(found.lines["verdict"]) != {VERDICTS[0]}:
        unknown = ["nothing that is recorded; the processor may be another"]
        text += ["what may explain it:", *(f"  {said}" for said in found.explanations or unknown)]
    return "\n".join(text)


def summary(found: Comparison) -> str:
    """How many rows have which verdict, by each row's worst rule."""
    worst = found.worst.set_index("row")["verdict"]
    rows = worst.drop(ALL_SYSTEMS, errors="ignore")
    counts = [(name, int((rows == name).sum())) for name in VERDICTS]
    said = [f"{n} of {len(rows)} rows {name}" for name, n in counts if n]
    if worst.get(ALL_SYSTEMS) == VERDICTS[-1]:
        said.append(f"{ALL_SYSTEMS} together {VERDICTS[-1]}")
    return ", ".join(said)


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
    kappa, kappa_error = _kappa(decisions)
    accuracies = decisions[["correct_here", "correct_published"]].mean()
    is_asked = kappa_error > 0 and accuracies.max() > _AGREEING
    p_values = {
        "accuracy": 2 * stats.norm.sf(abs(difference) / error) if error > 0 else 1.0,
        f"actor {actor}": p_actor,
        "agreement": stats.norm.cdf((kappa - agreement) / kappa_error) if is_asked else 1.0,
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


def _git(repository: Path, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(["git", *arguments], cwd=repository, capture_output=True)


def _pairs(here: Sequence[Run], there: Sequence[Run]) -> list[Pair]:
    found: list[Pair] = []
    ours, theirs = _by_fold(here), _by_fold(there)
    for fold in sorted(ours.keys() & theirs.keys()):
        common = [(a, b) for a, b in product(ours[fold], theirs[fold]) if a.seed == b.seed]
        found += common or zip(ours[fold], theirs[fold], strict=False)
    return found


def _by_fold(runs: Sequence[Run]) -> dict[int, list[Run]]:
    """In the order of folds and seeds."""
    in_order = sorted(runs, key=lambda run: (run.fold, run.seed))
    return {fold: list(found) for fold, found in groupby(in_order, lambda run: run.fold)}


def _decisions(pairs: Sequence[Pair], rule: Rule) -> pd.DataFrame:
    """See `another_seed`; pairs of runs are named by the published seed."""
    here = outcomes([replace(a, seed=b.seed) for a, b in pairs], rule)
    there = outcomes([b for _, b in pairs], rule)
    keys = ["fold", "seed", "actor", "clip", "emotion"]
    both = here.merge(there, on=keys, suffixes=("_here", "_published"))
    kinds: dict[str, type] = {"predicted": int, "correct": bool}
    return both.astype({f"{name}_{side}": kinds[name] for name in kinds for side in _SIDES})


def _compare_rows(
    pairs: Mapping[str, Sequence[Pair]], there: Mapping[str, Sequence[Run]], rule: Rule
) -> pd.DataFrame:
    same = [row for row, found in pairs.items() if all(_same_bits(*pair) for pair in found)]
    decisions = {row: _decisions(found, rule) for row, found in pairs.items() if row not in same}
    differing = [row for row, found in decisions.items() if len(found) and _share_equal(found) < 1]
    seeds = {row: _decisions(_pairs_of_seeds(there[row]), rule) for row in there if differing}
    correlation = _correlation([found for found in seeds.values() if len(found)], rule)
    lines = []
    for row, found in pairs.items():
        theirs = score([run for _, run in found], rule)
        if not theirs.n_clips:
            continue
        ours = theirs if row in same else score([run for run, _ in found], rule)
        cells = [f"{side.accuracy_pct:.2f}" for side in (ours, theirs)]
        inside = theirs.ci_low_pct <= ours.accuracy_pct <= theirs.ci_high_pct
        line = {
            "row": row,
            "rule": rule,
            "verdict": VERDICTS[0] if row in same else VERDICTS[1],
            "published_pct": theirs.accuracy_pct,
            "here_pct": ours.accuracy_pct,
            "equal_pct": 100 * _share_equal(decisions[row]) if row in differing else 100.0,
            "cell": "equal" if cells[0] == cells[1] else "inside" if inside else "outside",
            "difference_pct": 0.0,
        }
        if row in differing:
            least = _kappa(seeds[row])[0] if len(seeds[row]) else _AGREEMENT
            line |= another_seed(decisions[row], correlation, least)
        lines.append(line)
    changes = _confidence_changes({row: pairs[row] for row in decisions})
    if rule == "last epoch" and changes.shape[1] > 1:
        equal_pct = 100 * _share_equal(pd.concat(decisions.values()))
        actors, p_value = _surer_test(changes)
        line = {"row": ALL_SYSTEMS, "rule": rule, "equal_pct": equal_pct}
        lines.append(line | {"p_value": p_value, "reason": actors})
    table = pd.DataFrame(lines, columns=list(_COLUMNS))
    table["p_holm"] = holm(table["p_value"].to_numpy(float))
    is_tested = table["p_value"].notna()
    table.loc[is_tested, "verdict"] = VERDICTS[2]
    table.loc[is_tested & (table["p_holm"] < LEVEL), "verdict"] = VERDICTS[3]
    return table


def _same_bits(here: Run, there: Run) -> bool:
    """Of all that is kept; confidences in the epochs that both sides keep."""
    a, b = here.test, there.test
    if not a.clips.equals(b.clips) or not np.array_equal(a.predicted, b.predicted):
        return False
    is_kept = ~np.isnan(a.confidence) & ~np.isnan(b.confidence)
    ours, theirs = (
        predictions.epochs(run).drop(columns=list(predictions.KEYS)) for run in (here, there)
    )
    return np.array_equal(a.confidence[is_kept], b.confidence[is_kept]) and ours.equals(theirs)


def _of_runs(decisions: pd.DataFrame) -> pd.DataFrame:
    """Of each run: clips n, `signed` right here minus right there, `differing` where one is."""
    here, there = decisions["correct_here"], decisions["correct_published"]
    counted = decisions.assign(n=1.0, signed=here.astype(float) - there, differing=here ^ there)
    return counted.groupby(["fold", "seed"])[["n", "signed", "differing"]].sum()


def _actor_test(decisions: pd.DataFrame) -> tuple[Any, float]:
    """The actor that stands out most, and its p value over all actors and both directions."""
    code, names = pd.factorize(decisions["actor"])
    here, there = (decisions[f"correct_{side}"].to_numpy() for side in _SIDES)
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


def _confidence_changes(pairs: Mapping[str, Sequence[Pair]]) -> pd.DataFrame:
    """How much surer rows are of an actor's clips here than published, in the last epoch.

    Returns:
        Lines (fold, actor), a column per row: change of the decisions' mean log odds. Without
        folds of one actor and without rows that did not change.
    """
    changes = [
        pd.Series(_log_odds(here) - _log_odds(there))
        .groupby(here.test.clips["actor"].to_numpy())
        .mean()
        .rename_axis("actor")
        .reset_index(name="change")
        .assign(row=row, fold=here.fold)
        for row, found in pairs.items()
        for here, there in found
    ]
    if not changes:
        return pd.DataFrame()
    of_actors = pd.concat(changes).pivot_table("change", ["fold", "actor"], "row").dropna()
    of_actors = of_actors.groupby("fold").filter(lambda fold: len(fold) > 1)
    return of_actors.loc[:, (of_actors != 0).any()]


def _log_odds(run: Run) -> np.ndarray:
    confidence = run.test.confidence[-1].clip(_LEAST_DOUBT, 1 - _LEAST_DOUBT)
    return np.log(confidence / (1 - confidence))


def _surer_test(changes: pd.DataFrame) -> tuple[str, float]:
    """The actors of whom all rows are surer on one side, and the p value of both directions.

    Leaked actors stand out from their fold's others, so the statistic is the sum over folds of the
    square of the largest mean over rows. It is compared with simulated changes of another seed,
    normal and correlated between rows by `_ROW_CORRELATION`.
    """
    fold, actors = (changes.index.get_level_values(name) for name in ("fold", "actor"))
    groups = [np.flatnonzero(fold == name) for name in fold.unique()]
    rng = np.random.default_rng(0)
    n_actors, n_rows = changes.shape
    shared = rng.normal(size=(_N_SIMULATED, n_actors, 1))
    own = rng.normal(size=(_N_SIMULATED, n_actors, n_rows))
    simulated = np.sqrt(_ROW_CORRELATION) * shared + np.sqrt(1 - _ROW_CORRELATION) * own
    here, by_seed = (_standing_out(x, groups) for x in (changes.to_numpy()[None], simulated))
    found = []
    for sign in (1, -1):
        tops, usual = (
            np.stack([(sign * mean[:, group]).max(axis=1) for group in groups], axis=1)
            for mean in (here, by_seed)
        )
        n_beyond = ((usual**2).sum(axis=1) >= (tops**2).sum()).sum()
        stands_out = tops[0] > np.quantile(usual, 1 - LEVEL)
        stands_out[tops[0].argmax()] = True
        best = [
            group[(sign * here[0, group]).argmax()]
            for group, is_far in zip(groups, stands_out, strict=True)
            if is_far
        ]
        names = ", ".join(str(actors[k]) for k in best)
        found.append(((1 + n_beyond) / (1 + _N_SIMULATED), names))
    p_value, names = min(found)
    return f"actors {names}", min(1.0, 2 * float(p_value))


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


def _kappa(decisions: pd.DataFrame) -> tuple[float, float]:
    """Agreement beyond that of two systems independent within each emotion; its error by actor."""
    sides = [f"predicted_{side}" for side in _SIDES]
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


def _pairs_of_seeds(runs: Sequence[Run]) -> list[Pair]:
    """Each run with the one of the next seed of its fold."""
    return [pair for of_fold in _by_fold(runs).values() for pair in pairwise(of_fold)]


def _correlation(seeds: Sequence[pd.DataFrame], rule: Rule) -> float:
    """Between the clips of a run, from pairs of published seeds if there are enough."""
    runs = pd.concat(map(_of_runs, seeds)) if seeds else None
    if runs is None or (runs["differing"] > 1).sum() < _FEWEST_PAIRS:
        return _RUN_CORRELATION[rule]
    signed, differing = runs["signed"], runs["differing"]
    return max(0.0, float((signed**2 - differing).sum() / (differing**2 - differing).sum()))


def _share_equal(decisions: pd.DataFrame) -> float:
    return float((decisions["predicted_here"] == decisions["predicted_published"]).mean())


def _changed_claims(here: list[Run], there: list[Run]) -> pd.DataFrame:
    protocol: Protocol = there[0].info["protocol"]
    before, after = (
        {
            (test["row"], test["rule"]): verdict(test)
            for test in paired_tests({protocol: by_row(runs)}).to_dict("records")
        }
        for runs in (there, here)
    )
    changed = [
        (*key, claim, after[key]) for key, claim in before.items() if after.get(key, claim) != claim
    ]
    return pd.DataFrame(changed, columns=["row", "rule", "published", "here"])


def _lacking(runs: Sequence[Run], others: Sequence[Run]) -> list[str]:
    """Rows, or folds and seeds of a row, that the others lack."""
    lacking = []
    for row, found in by_row(runs).items():
        theirs = {(run.fold, run.seed) for run in others if run.row == row}
        if not theirs:
            lacking.append(row)
        elif keys := sorted({(run.fold, run.seed) for run in found} - theirs):
            of_row = ", ".join(f"fold {fold} seed {seed}" for fold, seed in keys)
            lacking.append(f"{row} ({of_row})")
    return lacking


def _explanations(here: Sequence[Run], there: Sequence[Run]) -> list[str]:
    """Columns of runs.csv with other values; one that a side lacks is unknown there."""
    result = (*predictions.KEYS, "kept_epochs", "n_epochs", "n_parameters", "forward_gflops")
    names = dict.fromkeys(name for run in (*there, *here) for name in run.info)
    found = []
    for name in (name for name in names if name not in result):
        sides = [sorted({_said(run.info.get(name)) for run in runs}) for runs in (there, here)]
        if sides[0] != sides[1]:
            published, ours = (", ".join(side) for side in sides)
            found.append(f"{name}: published {published}; here {ours}")
    return found


def _said(value: Any) -> str:
    return "unknown" if value is None or value != value else str(value)[:40]
