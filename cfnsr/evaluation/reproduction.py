"""Whether predictions agree with published ones: same bits, same decisions, or like another seed.

    python -m cfnsr compare [REVISION]

compares figures/<data>/predictions/<protocol> with what git holds of it, run by run (row, fold,
seed), and gives each row and rule one of `VERDICTS`. A seed that only one side has is paired, in
order, with one of the same fold that only the other has, so another seed can be compared too.

The third verdict needs the tests of `seed_noise`. A last line, `ALL_SYSTEMS`, asks of
the last epoch of all rows together whether a test actor leaked into the training.
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

from cfnsr import InputError
from cfnsr.data.corpora import Protocol
from cfnsr.evaluation import predictions, seed_noise
from cfnsr.evaluation.scores import outcomes, score
from cfnsr.evaluation.seed_noise import SIDES, another_seed, kappa
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
    return both.astype({f"{name}_{side}": kinds[name] for name in kinds for side in SIDES})


def _compare_rows(
    pairs: Mapping[str, Sequence[Pair]], there: Mapping[str, Sequence[Run]], rule: Rule
) -> pd.DataFrame:
    same = [row for row, found in pairs.items() if all(_same_bits(*pair) for pair in found)]
    decisions = {row: _decisions(found, rule) for row, found in pairs.items() if row not in same}
    differing = [row for row, found in decisions.items() if len(found) and _share_equal(found) < 1]
    seeds = {
        row: _decisions([pair for fold in _by_fold(runs).values() for pair in pairwise(fold)], rule)
        for row, runs in there.items()
        if differing
    }
    correlation = seed_noise.correlation([found for found in seeds.values() if len(found)], rule)
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
            least = kappa(seeds[row])[0] if len(seeds[row]) else seed_noise.AGREEMENT
            line |= another_seed(decisions[row], correlation, least)
        lines.append(line)
    if rule == "last epoch":
        changes = seed_noise.confidence_changes({row: pairs[row] for row in decisions})
        if changes.shape[1] > 1:  # two rows at least differ in how sure they are of actors
            actors, p_value = seed_noise.surer_actors(changes)
            line = {"row": ALL_SYSTEMS, "rule": rule, "p_value": p_value, "reason": actors}
            equal_pct = 100 * _share_equal(pd.concat(decisions.values()))
            lines.append(line | {"equal_pct": equal_pct})
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
