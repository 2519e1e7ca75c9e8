"""Which rows and folds a reproduction runs: one small file a run, which its stage depends on.

A run's file also says which model with which switches, and what the model's code is. So changing
`fold` or `row` in params.yaml, or one model, reruns only the stages whose own file changed.
"""

import ast
import hashlib
import json
from pathlib import Path

from cfnsr.models.registry import ENCODERS, ROWS, Row, find
from cfnsr.params import Params
from cfnsr.ravdess import N_FOLDS

MODELS = Path(__file__).parent / "models"


def rows_to_run(params: Params) -> list[str]:
    """The rows that are trained: all, or the one asked for and the encoders that it starts from.

    Raises:
        InputError: there is no such row.
    """
    if params.row == "all":
        return [name for name, row in ROWS.items() if row.alias is None]
    row = find(params.row)
    name = row.alias or params.row
    return [*ENCODERS, name] if find(name).starts_from_encoders else [name]


def write_plan(params: Params, folder: Path) -> None:
    """Write `<row>-<fold>.json` for every row and fold that there could be."""
    chosen = rows_to_run(params)
    folder.mkdir(parents=True, exist_ok=True)
    for name, row in ROWS.items():
        if row.alias is not None:
            continue
        model = {"run": True, "model": row.model, "options": row.options, "code": _code(row)}
        for fold in range(1, N_FOLDS + 1):
            run = name in chosen and fold in params.folds
            entry = model if run else {"run": False}
            (folder / f"{name}-{fold}.json").write_text(json.dumps(entry, indent=1) + "\n")


def _code(row: Row) -> dict[str, str]:
    """The sha256 of the row's module and of the modules of `cfnsr.models` that it imports."""
    hashes: dict[str, str] = {}
    todo = [row.model.split(".")[0]]
    while todo:
        module = todo.pop()
        if module in hashes:
            continue
        source = (MODELS / f"{module}.py").read_bytes()
        hashes[module] = hashlib.sha256(source).hexdigest()
        todo += [
            node.module.removeprefix("cfnsr.models.")
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.ImportFrom)
            and node.module is not None
            and node.module.startswith("cfnsr.models.")
        ]
    return dict(sorted(hashes.items()))
