"""`python -m cfnsr`: the small commands that need no notebook."""

import argparse
import csv
import sys

from cfnsr import params
from cfnsr.errors import InputError


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m cfnsr", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("rows", help="list every system of Tables 1 and 2 at full size")
    command.add_argument("--csv", action="store_true", help="print csv instead of a table")
    command.set_defaults(run=_rows)

    command = commands.add_parser("plan", help="write which rows and folds run (a pipeline stage)")
    command.set_defaults(run=_plan)

    command = commands.add_parser(
        "dataset", help="make, download or find the clips and list them (a pipeline stage)"
    )
    command.set_defaults(run=_dataset)

    command = commands.add_parser(
        "notebooks", help="copy the notebooks' sources without outputs (a pipeline stage)"
    )
    command.set_defaults(run=_notebooks)

    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _rows(options: argparse.Namespace) -> None:
    from cfnsr.models.base import FULL_SIZE
    from cfnsr.models.registry import ROWS

    lines = [
        {
            "row": name,
            "label": row.label,
            "fusion_stage": row.fusion_stage,
            "n_parameters": row.n_parameters(FULL_SIZE),
            "paper_params_millions": row.paper_params_millions,
            "paper_accuracy_pct": row.paper_accuracy_pct,
            "note": row.note,
        }
        for name, row in ROWS.items()
    ]
    if options.csv:
        writer = csv.DictWriter(sys.stdout, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        return
    cells = [
        list(lines[0]),
        *(["" if value is None else str(value) for value in line.values()] for line in lines),
    ]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    for line in cells:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


def _plan(options: argparse.Namespace) -> None:
    from cfnsr.plan import write_plan

    write_plan(params.load(), params.repository_root() / "build" / "plan")


def _dataset(options: argparse.Namespace) -> None:
    from cfnsr import sources

    chosen, repository = params.load(), params.repository_root()
    root = sources.provide(chosen, repository)
    manifest = sources.manifest(root, chosen.data)
    sources.write_manifest(manifest, repository / "build" / chosen.data / "manifest.csv")
    print(f"{len(manifest)} clips in {root}")


def _notebooks(options: argparse.Namespace) -> None:
    from cfnsr.notebook import strip

    root = params.repository_root()
    strip(sorted((root / "notebooks").glob("*.ipynb")), root / "build" / "notebooks")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
