"""Runs to the lines of the paper's tables, beside the paper's numbers; never imports torch.

`cfnsr.evaluation.typeset` makes files of them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from itertools import combinations
from math import nan
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from scipy import stats

from cfnsr.data.corpora import CORPORA, DEFAULT, Protocol, most_frequent_pct
from cfnsr.evaluation.scores import (
    PairedTest,
    compare_clips,
    outcomes,
    paired_test,
    per_clip,
    score,
    seeds_of,
)
from cfnsr.evaluation.selection import RULES, Rule, with_epochs
from cfnsr.evaluation.uncertainty import LEVEL, holm
from cfnsr.models.registry import REFERENCE, ROWS, Row, find
from cfnsr.params import Model, Params
from cfnsr.training.runs import Run

Modality = Literal["video", "audio", "audio_video", "additive"]
RunsByRow = Mapping[str, Sequence[Run]]

DATA_LABELS: dict[str, str] = {
    "pointing": "pointing control",
    "mixture": "mixed control",
    "synthetic": "synthetic control",
    **{name: corpus.name for name, corpus in CORPORA.items()},
    "ravdess_landmarks": "RAVDESS with faces drawn from landmarks",
}
#: What a protocol is called in a title.
PROTOCOL_LABELS: dict[Protocol, str] = {
    "paper": "the paper's split",
    "nested": "split with validation actors",
}
COLUMNS = (
    "row",
    "label",
    "fusion_stage",
    "n_parameters",
    "n_epochs",
    "paper_params_millions",
    "paper_accuracy_pct",
    "rule",
    "accuracy_pct",
    "sd_pct",
    "ci_low_pct",
    "ci_high_pct",
    "uar_pct",
    "n_folds",
    "n_clips",
    "protocol",
    "n_seeds",
    "forward_gflops",
    "macro_f1_pct",
    "ece",
    "last_quarter_pct",
)
PAIR_COLUMNS = ("row_a", "row_b", "protocol", *PairedTest.__dataclass_fields__, "p_holm")
TEST_COLUMNS = ("row", "protocol", "against", *PairedTest.__dataclass_fields__, "p_holm")
#: A row whose accuracy rises by more points over the last quarter of its epochs is not converged.
CONVERGED_PCT = 1.0
#: What the printed tables and most figures are of: the rule without any choice.
TEST_RULE: Rule = "last epoch"
#: What the paper's code keeps, see notebook 05; the paper does not say.
PAPER_RULE: Rule = "best test epoch"
_CHECKPOINT = "its training starts from a checkpoint"
#: `above_ceiling` accuses a system wrongly in one reproduction out of a hundred at most.
LEAK_LEVEL = 0.01


def by_row(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The runs of each row that has any, in the registry's order."""
    found = list(runs)
    return {name: group for name in ROWS if (group := [run for run in found if run.row == name])}


def by_protocol(runs: Iterable[Run]) -> dict[Protocol, dict[str, list[Run]]]:
    """The runs of each protocol that has any, `by_row`."""
    found = list(runs)
    return {
        protocol: rows
        for protocol in get_args(Protocol)
        if (rows := by_row(run for run in found if run.info["protocol"] == protocol))
    }


def table(rows: Mapping[str, Row], runs: Mapping[Protocol, RunsByRow]) -> pd.DataFrame:
    """One line a row, protocol and rule that applies to it, with `COLUMNS`.

    A row without runs is left out; an alias has the runs of the row that it names. `n_parameters`
    counts the model as trained here, `paper_params_millions` is the paper's; `n_epochs` are the
    row's own, without its encoders'; `forward_gflops` are the operations of one clip's forward
    pass, in 10^9; `last_quarter_pct` see there.
    """
    lines = []
    for name, row in rows.items():
        for protocol, runs_by_row in runs.items():
            of_row = runs_by_row.get(row.alias or name, ())
            lines += [
                asdict(row)
                | {
                    "row": name,
                    "protocol": protocol,
                    "n_parameters": of_row[0].info["n_parameters"],
                    "n_epochs": of_row[0].n_epochs,
                    "forward_gflops": of_row[0].info["forward_gflops"],
                    "last_quarter_pct": last_quarter_pct(of_row),
                }
                | asdict(found)
                for rule in RULES
                if (found := score(of_row, rule)).n_clips
            ]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def last_quarter_pct(runs: Sequence[Run]) -> float:
    """How much accuracy rises over the last quarter of the epochs, in points; nan where it is one.

    A straight line through the mean test accuracy of the runs, from the last epoch before that
    quarter to the end. Comparing whole quarters would count what an annealed rate always gains
    before its last quarter. More than `CONVERGED_PCT`: a longer training may be better.
    """
    n_epochs = runs[0].n_epochs
    if n_epochs == 1:
        return nan
    quarter = max(n_epochs // 4, 1)
    accuracy = np.mean([run.test.accuracy_pct for run in runs], axis=0)
    slope, _ = np.polyfit(np.arange(quarter + 1), accuracy[-quarter - 1 :], deg=1)
    return float(quarter * slope)


def paired_tests(runs: Mapping[Protocol, RunsByRow]) -> pd.DataFrame:
    """Every row against CFN-SR on the same clips, under every rule that applies to both.

    `TEST_COLUMNS`, p_holm over the rows of each protocol and rule.
    """

    def with_reference(rows: RunsByRow) -> list[tuple[str, str]]:
        return [(row, REFERENCE) for row in rows if REFERENCE in rows and row != REFERENCE]

    tests = _tests(runs, with_reference).rename(columns={"row_a": "row", "row_b": "against"})
    return tests[list(TEST_COLUMNS)]


def all_pairs(runs: Mapping[Protocol, RunsByRow]) -> pd.DataFrame:
    """Every row against every other, under every rule that applies to both.

    `PAIR_COLUMNS`, row_a minus row_b; p_holm over the pairs of each protocol and rule, so it is
    larger than that of `paired_tests`.
    """
    return _tests(runs, lambda rows: combinations(rows, 2))


def _tests(
    runs: Mapping[Protocol, RunsByRow], pairs: Callable[[RunsByRow], Iterable[tuple[str, str]]]
) -> pd.DataFrame:
    found = [
        {"protocol": protocol, **line}
        for protocol, rows in runs.items()
        for rule in RULES
        for line in _compared(rows, rule, pairs(rows))
    ]
    tests = pd.DataFrame(found, columns=list(PAIR_COLUMNS))
    return tests.assign(p_holm=tests.groupby(["protocol", "rule"])["p_value"].transform(holm))


def _compared(
    rows: RunsByRow, rule: Rule, pairs: Iterable[tuple[str, str]]
) -> Iterator[dict[str, Any]]:
    """The test of each pair of rows that have clips in common."""
    said = {name: outcomes(of_row, rule) for name, of_row in rows.items()}
    seeds = {name: seeds_of(lines) for name, lines in said.items()}

    @cache  # most rows have the same seeds, over which each is averaged once
    def right(row: str, of_seeds: frozenset[tuple[int, int]]) -> pd.Series:
        return per_clip(said[row], of_seeds)

    for a, b in pairs:
        test = compare_clips(right(a, seeds[b]), right(b, seeds[a]), rule)
        if test.n_clips:
            yield {"row_a": a, "row_b": b, **asdict(test)}


def switch_effects(switched: RunsByRow, unswitched: Sequence[Run]) -> pd.DataFrame:
    """What each switch of `cfnsr.models.registry` adds to CFN-SR's accuracy after the last epoch.

    Columns: switch, label, the fields of `PairedTest`, and p_holm, corrected over the switches;
    the other seed, a yardstick, is not among them.
    """
    before = outcomes(unswitched, TEST_RULE)
    tests = pd.DataFrame(
        [
            {"switch": row, "label": find(row).label}
            | asdict(paired_test(outcomes(runs, TEST_RULE), before, TEST_RULE))
            for row, runs in switched.items()
        ]
    )
    switches_over = tests["switch"].map(lambda row: find(row).seed_step == 0)
    return tests.assign(p_holm=holm(tests["p_value"].where(switches_over)))


def verdict(test: Mapping[Any, Any]) -> int:
    """Of a line of `paired_tests`: 1 is better than CFN-SR beyond chance, -1 worse, 0 neither."""
    if not test["p_holm"] < LEVEL:
        return 0
    return 1 if test["difference_pct"] > 0 else -1


def metrics(table: pd.DataFrame, folds: Sequence[int], asked: str) -> dict[str, Any]:
    """What `dvc metrics show` and `dvc exp show` print, of one row.

    The row is the one asked for; CFN-SR, or else the first there is, where that is no row.

    Returns:
        The folds and the row; its accuracy under each rule, by the rule's name; of the last epoch
        also the interval's ends and the UAR. All in percent.
    """
    rows = table["row"].unique()
    row = next(row for row in (asked, REFERENCE, *rows) if row in rows)
    of_rule = table[table["row"] == row].set_index("rule")
    last = of_rule.loc[TEST_RULE]
    beside = {"low": last["ci_low_pct"], "high": last["ci_high_pct"], "uar": last["uar_pct"]}
    return {
        "folds": _span(folds),
        "system": row,  # params.yaml has a `row`, and `dvc exp show` shows both
        **{metric_key(str(rule)): round(pct, 2) for rule, pct in of_rule["accuracy_pct"].items()},
        **{metric_key(TEST_RULE, name): round(pct, 2) for name, pct in beside.items()},
    }


def metric_key(rule: str, what: str = "") -> str:
    """The name in `metrics` of a rule's accuracy, or of `low`, `high` or `uar` beside it."""
    return f"{rule} {what}".rstrip().replace(" ", "_")


def modality(row: Row) -> Modality:
    """What a row sees and hears, and whether it can only add the two up."""
    if row.additive:
        return "additive"
    if row.of_face and row.of_voice:
        return "audio_video"
    return "video" if row.of_face else "audio"


def reduced_size(table: pd.DataFrame) -> str:
    """Says that the networks of a table are smaller than the paper's; empty where they are not.

    One stands for all: not every row has the paper's count at full size, but these two have.
    """
    counts = dict(zip(table["row"], table["n_parameters"], strict=True))
    for name in (REFERENCE, "video"):
        paper = find(name).paper_params_millions
        if name in counts and paper is not None:
            here = counts[name] / 1e6
            if round(here, 2) == paper:
                return ""
            return (
                f"networks of {'reduced' if here < paper else 'another'} size "
                f"({find(name).label} {here:.2f} M parameters; the paper's {paper:.2f} M)"
            )
    return ""


def row_notes(params: Params) -> dict[str, str]:
    """What a row's name leaves out, by row: another depth, a start that is not random."""
    blocks, full = params.source.model.n_blocks, Model().n_blocks
    here, there = ("-".join(map(str, counts)) for counts in (blocks, full))
    notes = [f"here {here} blocks, a ResNeXt50 has {there}"] if blocks != full else []
    if params.source.training.pretrained is not None:
        notes.append(_CHECKPOINT)
    return {"video": "; ".join(notes)} if notes else {}


def hybrid_notes(params: Params) -> dict[str, str]:
    """The same of the hybrid's two networks."""
    hybrid = params.source.hybrid
    of_width = f"; {hybrid.width:g} of its published width" if hybrid.width < 1 else ""
    return {
        name: (_CHECKPOINT if path else "its training starts from random weights") + of_width
        for name, path in {"hybrid_video": hybrid.c3d, "hybrid_audio": hybrid.alexnet}.items()
    }


def seeds(runs_by_row: RunsByRow, rule: Rule) -> pd.DataFrame:
    """What another seed changes: the accuracy of each row that has several, in percent.

    One line a row, one column a seed, and the range over seeds: means over the folds that all of
    the row's seeds have, whose number is `n_folds`.
    """
    lines = pd.DataFrame(
        [
            (find(name).label, run.fold, run.seed, run.test.accuracy_pct[epoch - 1])
            for name, runs in runs_by_row.items()
            for run, epoch in with_epochs(runs, rule)
        ],
        columns=["system", "fold", "seed", "accuracy_pct"],
    )
    n_seeds = lines.groupby("system")["seed"].transform("nunique")
    n_of_fold = lines.groupby(["system", "fold"])["seed"].transform("nunique")
    common = lines[(n_seeds > 1) & (n_of_fold == n_seeds)]
    table = common.pivot_table("accuracy_pct", "system", "seed", sort=False).sort_index(axis=1)
    spread = table.max(axis=1) - table.min(axis=1)
    n_folds = common.groupby("system")["fold"].nunique()
    return table.rename_axis(columns=None).assign(range=spread, n_folds=n_folds)


def ceilings(params: Params) -> pd.DataFrame:
    """The best possible accuracy of each modality, nan where unknown, and chance.

    Columns: modality, ceiling_pct, chance_pct. Only the synthetic control has known ceilings.
    """
    known: Mapping[str, float] = {}
    chance_pct = params.corpus.chance_pct
    if params.drawn is not None:
        # They load OpenCV, which tables of real data need not.
        from cfnsr.data.synthetic import design

        known = design.ceilings(params.drawn)
        chance_pct = most_frequent_pct(design.takes(params.drawn))
    names = get_args(Modality)
    ceiling_pct = [known.get(name, nan) for name in names]
    return pd.DataFrame({"modality": names, "ceiling_pct": ceiling_pct, "chance_pct": chance_pct})


def row_ceilings(table: pd.DataFrame, ceilings: pd.DataFrame) -> pd.Series:
    """Each line's ceiling in percent, by what its row sees and hears."""
    of_modality = ceilings.set_index("modality")["ceiling_pct"]
    return table["row"].map(lambda name: of_modality[modality(find(name))]).astype(float)


def above_ceiling(table: pd.DataFrame, ceilings: pd.DataFrame) -> pd.DataFrame:
    """The lines of a table that are above their ceiling beyond chance: these systems leak.

    A one-sided exact binomial test of the rightly classified clips (seeds averaged), with Holm's
    correction over all lines. `best test epoch` is left out, because choosing the epoch on the
    test clips is a leak of its own, and a known one.
    """
    lines = table.assign(ceiling_pct=row_ceilings(table, ceilings))
    lines = lines[(lines["rule"] != PAPER_RULE) & lines["ceiling_pct"].notna()]
    n_correct = (lines["accuracy_pct"] * lines["n_clips"] / 100).round().astype(int)
    n_clips, ceiling = lines["n_clips"].astype(int), lines["ceiling_pct"] / 100
    lines = lines.assign(p_holm=holm(stats.binom.sf(n_correct - 1, n_clips, ceiling)))
    return lines[lines["p_holm"] < LEAK_LEVEL]


def setting(params: Params, folds: Sequence[int] | None = None) -> str:
    """The data source, split and folds that stand with every number.

    `folds` are those that there are, if these need not be all that params.yaml asks for.
    """
    tested = _folds(params.folds if folds is None else folds)
    imitates = params.drawn is not None and params.corpus_name != DEFAULT
    like = f" like {params.corpus.name}" if imitates else ""
    return f"{DATA_LABELS[params.data]}{like}, {PROTOCOL_LABELS[params.protocol]}, {tested}"


def folds(runs_by_row: RunsByRow) -> tuple[int, ...]:
    """The folds that any of the runs tests."""
    return tuple(sorted({run.fold for runs in runs_by_row.values() for run in runs}))


def extent(protocol: Protocol, runs_by_row: RunsByRow) -> str:
    """A protocol, and how much there is of it."""
    runs = [run for of_row in runs_by_row.values() for run in of_row]
    n_clips = len({clip for run in runs for clip in run.test.clips["clip"]})
    counts = sorted({len({run.seed for run in of_row}) for of_row in runs_by_row.values()})
    n_seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return (
        f"protocol {protocol}, {_folds(folds(runs_by_row))}, {n_clips} test clips, {n_seeds} "
        f"seed{'s' if counts[-1] > 1 else ''} a fold"
    )


def _span(folds: Sequence[int]) -> str:
    first, last = folds[0], folds[-1]
    if len(folds) > 1 and tuple(folds) == tuple(range(first, last + 1)):
        return f"{first} to {last}"
    return ", ".join(map(str, folds))


def _folds(folds: Sequence[int]) -> str:
    return f"fold{'s' if len(folds) > 1 else ''} {_span(folds)}"
