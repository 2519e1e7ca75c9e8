"""`python -m cfnsr`: the small commands that need no notebook."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cfnsr import InputError, cluster, command_line, params
from cfnsr.data.files import writing


@command_line
def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m cfnsr",
        description=__doc__,
        epilog="`dvc repro` calls these as stages: dataset, notebooks, train, predictions.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        run: Callable[[argparse.Namespace], int | None], **words: Any
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(run.__name__.removeprefix("_"), **words)
        command.set_defaults(run=run)
        return command

    a_run: dict[str, Any] = {"dest": "trained", "type": Path, "metavar": "FOLDER"}
    its_folder = "a run's folder, runs/…/seed_<s>"

    command = add(_predict, help="classify a clip of your own")
    command.add_argument("clip", type=Path, help="a video with sound, of any length")
    command.add_argument(
        "--run", **a_run, help=f"{its_folder}; default: the network that comes with the package"
    )
    command.add_argument(
        "--landmarks",
        type=Path,
        metavar="CSV",
        help="OpenFace's 68 points of each frame; default: they or the face are looked for",
    )
    command.add_argument(
        "--output", type=Path, metavar="DIR", help="default: build/predict/<clip name>"
    )

    command = add(_rows, help="list every system of Tables 1 and 2 at full size")
    command.add_argument("--csv", action="store_true", help="print csv instead of a table")

    command = add(
        _compare,
        help="compare the predictions here with published ones",
        description="Exit status: 0 reproduced, 1 bad input, 2 wrong usage, 3 not reproduced.",
    )
    command.add_argument(
        "revision", nargs="?", default="HEAD", metavar="REVISION", help="of git; default: HEAD"
    )
    command.add_argument(
        "--against", type=Path, metavar="FOLDER", help="predictions in place of a revision's"
    )
    command.add_argument("--data", help="default: of params.yaml")
    command.add_argument("--protocol", help="default: of params.yaml")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--all", action="store_true", help="every rule, not the worst of each row")
    form.add_argument("--json", action="store_true", help="print json instead of a table")

    command = add(_architecture, help="draw CFN-SR from the built network")
    command.add_argument("--output", type=Path, default=Path("build/try"), metavar="DIR")
    command.add_argument(
        "--full-size", action="store_true", help="at the paper's sizes, not at params.yaml's"
    )

    add(_site, help="build the gallery of figures/ in build/site")

    command = add(
        _cluster, help="start Dask workers that serve a command, or until they are interrupted"
    )
    command.add_argument("--slurm", action="store_true", help="as jobs of SLURM")
    command.add_argument("--workers", type=int, metavar="N", help="default: one per core or GPU")
    command.add_argument("--host", default="127.0.0.1", help="where scheduler and dashboard listen")
    command.add_argument("command", nargs="*", metavar="COMMAND", help="after --")

    command = add(_export, help="write a trained network as ONNX")
    command.add_argument("model", type=Path, metavar="FILE", help="such as model.onnx")
    command.add_argument("--run", **a_run, required=True, help=its_folder)

    command = add(_transfer, help="ask the networks of params.yaml about another data source")
    command.add_argument("tested", metavar="DATA", help="its arrays must be in build/DATA")

    command = add(_publish, help="train the network that comes with the package, write its card")
    command.add_argument("--card", action="store_true", help="write the card alone")

    # Without help a command is not in the list; the epilog names it.
    add(_dataset, description="Make, download or find the clips and list them.")
    add(_notebooks, description="Copy the notebooks' sources without outputs.")
    command = add(_train, description="Train the systems that params.yaml asks for on a fold.")
    command.add_argument("fold", type=int)
    add(_predictions, description="Keep the per-clip predictions of runs.")

    options = parser.parse_args(arguments)
    cluster.end_with_dvc()
    with writing(Path.cwd()):
        return options.run(options) or 0


def _rows(options: argparse.Namespace) -> None:
    import pandas as pd

    from cfnsr.evaluation.typeset import aligned
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
        pd.DataFrame(lines).to_csv(sys.stdout, index=False, lineterminator="\n")
        return
    said = [["" if value is None else str(value) for value in line.values()] for line in lines]
    print(aligned([list(lines[0]), *said]))


def _dataset(options: argparse.Namespace) -> None:
    from cfnsr.data import sources

    chosen, repository = params.load(), params.repository_root()
    root = sources.provide(chosen, repository)
    manifest = sources.manifest(root, chosen)
    sources.write_manifest(manifest, repository / "build" / chosen.data / "manifest.csv")
    print(f"{len(manifest)} clips in {root}")
    if chosen.drawn is None and (absent := sources.lacking(manifest, root, chosen.corpus)):
        print(absent)


def _notebooks(options: argparse.Namespace) -> None:
    from cfnsr.notebook import strip

    root = params.repository_root()
    strip(sorted((root / "notebooks").glob("*.ipynb")), root / "build" / "notebooks")


def _train(options: argparse.Namespace) -> int:
    from cfnsr import notebook

    chosen = params.load()
    group, fold = "systems", str(options.fold)
    folder = Path("runs", chosen.data, chosen.protocol, group, f"fold_{fold}")
    files = ["build/notebooks/02_train.ipynb", str(folder / "02_train.ipynb")]
    return notebook.main([*files, "--if-asked", "-p", "group", group, "-p", "fold", fold])


def _predictions(options: argparse.Namespace) -> None:
    from cfnsr.evaluation import predictions

    runs = predictions.keep(params.load(), params.repository_root())
    print(f"{len(runs)} runs of {len({run.row for run in runs})} systems kept")


def _transfer(options: argparse.Namespace) -> None:
    from cfnsr.evaluation.transfer import transfer

    chosen, repository = params.load(), params.repository_root()
    found = transfer(chosen, options.tested, repository)
    path = repository / "build" / "transfer" / f"{chosen.data}_{options.tested}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    found.to_csv(path, index=False, float_format="%.2f", lineterminator="\n")
    print(found.drop(columns=["row", "emotions"]).round(1).to_string(index=False))
    print(f"of the emotions {found['emotions'][0]}; written to {path}")


def _compare(options: argparse.Namespace) -> int:
    from cfnsr.evaluation import predictions, reproduction

    chosen, repository = params.load(), params.repository_root()
    data, protocol = options.data or chosen.data, options.protocol or chosen.protocol
    folder = repository / "figures" / data / "predictions" / protocol
    for needed in filter(None, (folder, options.against)):
        if not needed.is_dir():
            raise InputError(
                f"no {needed}; make it with `dvc repro`, or take other --data or --protocol"
            )
    if options.against:
        there = predictions.read(options.against)
    else:
        there = reproduction.published(repository, options.revision, data, protocol)
    found = reproduction.compare(predictions.read(folder), there)
    if not options.against and (files := reproduction.changed_code(repository, options.revision)):
        found.explanations.append(f"code: {len(files)} files differ, {files[0]} first")
    against = str(options.against or options.revision)
    if options.json:
        about = {"data": data, "protocol": protocol, "against": against}
        print(json.dumps(about | found.as_dict(), indent=1))
    else:
        print(reproduction.report(found, options.all))
        print(f"figures/{data}, {protocol}, against {against}: {reproduction.summary(found)}")
    return 0 if found.reproduced else 3


def _architecture(options: argparse.Namespace) -> None:
    from cfnsr.data import corpora
    from cfnsr.figures import architecture, network
    from cfnsr.figures.style import save

    chosen = params.load()
    if options.full_size:
        chosen = params.Params.model_validate({"data": corpora.DEFAULT})
    n_channels = params.n_channels(chosen.data)
    built = network.read(chosen.source, chosen.corpus, n_channels)
    title = architecture.title(built, None if options.full_size else chosen.data)
    options.output.mkdir(parents=True, exist_ok=True)
    name = "architecture_full_size" if options.full_size else "architecture"
    save(architecture.architecture(built, title), options.output / name)
    print(f"written: {options.output / name}.svg, .png")


def _site(options: argparse.Namespace) -> None:
    from cfnsr.figures import gallery
    from cfnsr.own_clip import PUBLISHED

    chosen, repository = params.load(), params.repository_root()
    print(f"the gallery: {gallery.build(repository, PUBLISHED / 'README.md')}")
    print(gallery.outcome(chosen, repository))
    if "DVC_EXP_NAME" in os.environ:
        print("to go back, without your edits: git restore . && dvc checkout --allow-missing")


def _cluster(options: argparse.Namespace) -> int:
    same_bits = params.load().source.training.same_bits
    with (
        cluster.slurm_cluster(same_bits, options.workers)
        if options.slurm
        else cluster.local_cluster(same_bits, n_workers=options.workers, host=options.host)
    ) as started:
        return cluster.serve(started, options.command)


def _predict(options: argparse.Namespace) -> None:
    chosen = params.load()
    os.environ.update(cluster.environment(chosen.source.training.same_bits))
    from cfnsr.own_clip import PUBLISHED, predict

    run = options.trained or PUBLISHED
    prediction = predict.predict(options.clip, run, options.landmarks)
    print(predict.report(prediction))
    print(f"({predict.track_record(run, prediction)})")
    for warning in prediction.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    output = options.output or params.repository_root() / "build/predict" / options.clip.stem
    if prediction.overlay is None:
        print("no overlay: this network is given no pictures")
    for path in predict.write(prediction, output):
        print(f"written: {path}")


def _export(options: argparse.Namespace) -> None:
    from cfnsr.training.export import export
    from cfnsr.training.trained import load_trained

    export(load_trained(options.trained, "cpu"), options.model)
    print(f"written: {options.model}")


def _publish(options: argparse.Namespace) -> None:
    os.environ.update(cluster.environment(same_bits=True))
    from cfnsr.own_clip import publish

    repository = params.repository_root()
    folder = (
        publish.write_card(repository)
        if options.card
        else publish.publish(params.load(), repository)
    )
    print(f"written: {folder}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
