"""Runs to the lines of the paper's tables, beside the paper's numbers; never imports torch.

`cfnsr.typeset` makes files of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from math import nan
from typing import Literal, get_args

import pandas as pd
from scipy import stats

from cfnsr.evaluation import PairedTest, paired_test, score
from cfnsr.models.registry import ROWS, Row, ScheduleName, find
from cfnsr.params import Params, Source
from cfnsr.runs import Run
from cfnsr.selection import RULES, Rule
from cfnsr.uncertainty import holm

Modality = Literal["video", "audio", "audio_video"]

DATA_LABELS: dict[Source, str] = {
    "synthetic": "synthetic control",
    "ravdess": "RAVDESS",
    "ravdess_landmarks": "RAVDESS with faces drawn from landmarks",
}
COLUMNS = (
    "row",
    "label",
    "fusion_stage",
    "n_parameters",
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
)
TEST_COLUMNS = ("row", "against", *PairedTest.__dataclass_fields__, "p_holm")
#: Every row is compared with this one, after the last epoch: the rule without any choice.
REFERENCE = "cfn_sr"
TEST_RULE: Rule = "last epoch"
_MODALITIES: dict[ScheduleName, Modality] = {
    "video": "video",
    "audio": "audio",
    "erann": "audio",
    "fusion": "audio_video",
    "none": "audio_video",
}
#: What always naming one emotion gets right: each has two of an actor's fifteen kinds of takes,
#: but neutral, which RAVDESS has in one intensity only, has one.
CHANCE_PCT = 100 * 2 / 15
#: `above_ceiling` accuses a system wrongly in one reproduction out of a hundred at most.
LEAK_LEVEL = 0.01


def by_row(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The runs of each row that has any, in the registry's order."""
    found = list(runs)
    groups = {name: [run for run in found if run.row == name] for name in ROWS}
    return {name: group for name, group in groups.items() if group}


def table(rows: Mapping[str, Row], runs_by_row: Mapping[str, Sequence[Run]]) -> pd.DataFrame:
    """One line a row and rule that applies to it, with `COLUMNS`.

    A row without runs is left out; an alias has the runs of the row that it names. `n_parameters`
    counts the model as trained here, `paper_params_millions` is the paper's.
    """
    lines = []
    for name, row in rows.items():
        runs = runs_by_row.get(row.alias or name, ())
        scores = [score(runs, rule) for rule in RULES]
        lines += [
            asdict(row)
            | {"row": name, "n_parameters": runs[0].info["n_parameters"]}
            | asdict(found)
            for found in scores
            if found.n_clips
        ]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def paired_tests(runs_by_row: Mapping[str, Sequence[Run]], rule: Rule = TEST_RULE) -> pd.DataFrame:
    """Every row against CFN-SR on the same clips: `TEST_COLUMNS`, p_holm over all lines."""
    reference = runs_by_row.get(REFERENCE, ())
    lines = [
        {"row": name, "against": REFERENCE, **asdict(paired_test(runs, reference, rule))}
        for name, runs in runs_by_row.items()
        if reference and name != REFERENCE
    ]
    tests = pd.DataFrame(lines, columns=list(TEST_COLUMNS))
    return tests.assign(p_holm=holm(tests["p_value"]))


def metrics(table: pd.DataFrame, folds: Sequence[int]) -> dict[str, str | dict[str, float]]:
    """What `dvc exp show` prints: the folds, and each row's accuracy in percent by rule."""
    shown: tuple[Rule, ...] = ("best test epoch", "last epoch")
    lines = table[table["rule"].isin(shown)]
    return {"folds": _span(folds)} | {
        str(name): dict(zip(group["rule"], group["accuracy_pct"].round(2), strict=True))
        for name, group in lines.groupby("row", sort=False)
    }


def modality(row: Row) -> Modality:
    """What a row sees and hears."""
    return _MODALITIES[row.schedule]


def ceilings(params: Params) -> pd.DataFrame:
    """The best possible accuracy of each modality, nan where unknown, and chance.

    Columns: modality, ceiling_pct, chance_pct. Only the synthetic control has known ceilings.
    """
    known: Mapping[str, float] = {}
    if params.data == "synthetic" and params.source.clips is not None:
        from cfnsr import synthetic  # loads OpenCV and PyAV, which tables of real data need not

        known = synthetic.ceilings(params.source.clips)
    return pd.DataFrame(
        {
            "modality": name,
            "ceiling_pct": known.get(name, nan),
            "chance_pct": CHANCE_PCT,
        }
        for name in get_args(Modality)
    )


def row_ceilings(table: pd.DataFrame, ceilings: pd.DataFrame) -> pd.Series:
    """Each line's ceiling in percent, by what its row sees and hears."""
    of_modality = ceilings.set_index("modality")["ceiling_pct"].to_dict()
    values = [of_modality[modality(find(name))] for name in table["row"]]
    return pd.Series(values, index=table.index, dtype=float, name="ceiling_pct")


def above_ceiling(table: pd.DataFrame, ceilings: pd.DataFrame) -> pd.DataFrame:
    """The lines of a table that are above their ceiling beyond chance: these systems leak.

    A one-sided exact binomial test of the rightly classified clips (seeds averaged), with Holm's
    correction over all lines. `best test epoch` is left out, because choosing the epoch on the
    test clips is a leak of its own, and a known one.
    """
    lines = table.assign(ceiling_pct=row_ceilings(table, ceilings))
    lines = lines[(lines["rule"] != "best test epoch") & lines["ceiling_pct"].notna()]
    n_correct = (lines["accuracy_pct"] * lines["n_clips"] / 100).round().astype(int)
    p_values = [
        stats.binomtest(k, n, ceiling / 100, alternative="greater").pvalue
        for k, n, ceiling in zip(n_correct, lines["n_clips"], lines["ceiling_pct"], strict=True)
    ]
    lines = lines.assign(p_holm=holm(p_values))
    return lines[lines["p_holm"] < LEAK_LEVEL]


def setting(params: Params) -> str:
    """The data source and protocol that stand with every number."""
    return f"{DATA_LABELS[params.data]}, protocol {params.protocol}, {_folds(params.folds)}"


def _span(folds: Sequence[int]) -> str:
    return str(folds[0]) if len(folds) == 1 else f"{folds[0]} to {folds[-1]}"


def _folds(folds: Sequence[int]) -> str:
    return f"fold{'s' if len(folds) > 1 else ''} {_span(folds)}"
