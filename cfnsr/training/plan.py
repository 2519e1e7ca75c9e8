"""Which rows and folds a reproduction runs: one small file a run, which its stage depends on.

A run's file holds all that determines its result besides the data and the runs that it starts
from: parameters, model, switches, and the hashes of the code. So a change of `fold`, of one
schedule or of one model reruns only the stages whose own file changed. (A stage could list each
parameter and module itself; but DVC reads and writes all of dvc.lock for every stage that it runs,
and a lock of that length took 2.2 s each time.)
"""

import json
from pathlib import Path
from typing import Any

from pooch import file_hash

from cfnsr.data.corpora.ravdess import N_FOLDS
from cfnsr.models.registry import ROWS, Row, find, needs_seeds
from cfnsr.params import Params
from cfnsr.training import source_code


def rows_to_run(params: Params) -> list[str]:
    """The rows that are trained: all, or the one asked for and those that it starts from.

    A row with members is among all only where there are as many seeds.

    Raises:
        InputError: there is no such row, or it has more members than there are seeds.
    """
    if params.row == "all":
        return [
            name
            for name, row in ROWS.items()
            if row.alias is None and row.n_members <= len(params.seeds)
        ]
    name = find(params.row).alias or params.row
    needs_seeds(name, params.seeds)
    return [*find(name).starts_from, name]


def write_plan(params: Params, folder: Path) -> None:
    """Write `<row>-<fold>.json` for every row and fold that there could be."""
    chosen = rows_to_run(params)
    folder.mkdir(parents=True, exist_ok=True)
    for name, row in ROWS.items():
        if row.alias is not None:
            continue
        planned = {"run": True, **_determinants(row, params)}
        for fold in range(1, N_FOLDS + 1):
            run = name in chosen and fold in params.folds
            entry = planned if run else {"run": False}
            (folder / f"{name}-{fold}.json").write_text(json.dumps(entry, indent=1) + "\n")


def _determinants(row: Row, params: Params) -> dict[str, Any]:
    source = params.source
    schedule = getattr(source.training, row.schedule, None)
    pretrained = params.pretrained if row.schedule == "video" else None
    return {
        "data": params.data,
        "protocol": params.protocol,
        "seeds": params.seeds,
        "drawing": source.drawing.model_dump(),
        "model": {"class": row.model, **row.options, **source.model.model_dump()},
        "schedule": schedule.model_dump() if schedule else None,
        "training": source.training.common,
        "pretrained_sha256": pretrained and file_hash(pretrained),
        "code": source_code.hashes(row.model),
    }
