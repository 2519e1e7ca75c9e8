"""Run one notebook with papermill, as the pipeline's stages do.

    python -m cfnsr.notebook SOURCE EXECUTED [--if-asked] [-p NAME VALUE]...

runs SOURCE with the repository root as working directory and leaves a normalised copy at
EXECUTED: equal runs give equal bytes. With `--if-asked` it does nothing unless params.yaml asks for
rows of the parameter `group`, and for its `fold` if it has one.
"""

import argparse
import ast
import os
import re
import reprlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cfnsr import InputError, cluster, command_line, params
from cfnsr.data.files import REFUSALS, writing
from cfnsr.models.registry import asked_for, find

if TYPE_CHECKING:
    from nbformat import NotebookNode


@command_line
def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m cfnsr.notebook", description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("executed", type=Path)
    parser.add_argument("--if-asked", action="store_true")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    options = parser.parse_args(arguments)
    values = dict(options.p)
    if options.if_asked and "group" not in values:
        parser.error("--if-asked needs the parameter group")
    os.chdir(params.repository_root())
    settings = params.load()
    if options.if_asked and not is_asked_for(settings, values):
        with writing(options.executed.parent):
            options.executed.parent.mkdir(parents=True, exist_ok=True)
        return 0
    os.environ.update(cluster.environment(settings.source.training.same_bits))
    cluster.end_with_dvc()
    os.environ[cluster.TERMINAL] = str(int(cluster.on_a_terminal()))
    run(options.source, options.executed, values)
    return 0


def is_asked_for(settings: params.Params, parameters: Mapping[str, str]) -> bool:
    """Whether params.yaml asks for any row of the `group`, and for the `fold` if there is one."""
    folds = map(str, settings.folds)
    groups = {find(row).group for row in asked_for(settings.row, settings.seeds)}
    return parameters["group"] in groups and parameters.get("fold") in (None, *folds)


def run(source: Path, executed: Path, parameters: Mapping[str, str]) -> None:
    """Execute a notebook and write the normalised copy.

    Of its cells the terminal shows progress and warnings, which go to stderr. What they print is
    for readers of the copy.

    Raises:
        InputError: no such notebook, a parameter that it does not declare or that is of another
            type there, an `InputError` raised by one of its cells, or a disk that is full or
            read-only.
        papermill.PapermillExecutionError: any other exception of a cell, with its traceback. The
            half-executed notebook is then at build/failed/.
    """
    import nbformat
    import papermill  # 2 s that a stage which is passed over need not pay
    from traitlets.config import Config

    if not source.is_file():
        raise InputError(f"{source} is no file; expected one of `python -m cfnsr notebooks`")
    declared = papermill.inspect_notebook(source)
    for name in parameters:
        if name not in declared:
            raise InputError(
                f"{source} has no parameter {name}; its parameters cell declares "
                f"{', '.join(declared) or 'none'}"
            )
    values = {
        name: _as_declared(name, text, ast.literal_eval(declared[name]["default"]))
        for name, text in parameters.items()
    }
    failed = Path("build/failed") / executed.name
    for folder in (failed.parent, executed.parent):
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
    # The kernel is reached by sockets that nobody else on the machine can open.
    sockets = Config({"KernelManager": {"transport": "ipc" if os.name == "posix" else "tcp"}})
    with writing(failed.parent):
        try:
            notebook = papermill.execute_notebook(
                source,
                failed,
                values,
                kernel_name="python3",
                progress_bar=False,
                stderr_file=sys.stderr,
                config=sockets,
                # It calls the interrupt of its own shutdown an error.
                extra_arguments=["--log-level=CRITICAL"],
            )
        except papermill.PapermillExecutionError as error:
            if error.ename == InputError.__name__:
                raise InputError(error.evalue) from None
            number = re.match(r"\[Errno (\d+)\]", error.evalue)
            if number and int(number[1]) in REFUSALS:
                raise InputError(f"{executed.parent} cannot be written: {error.evalue}") from None
            raise
    failed.unlink()
    normalise(notebook)
    with writing(executed.parent):
        nbformat.write(notebook, executed)


def normalise(notebook: "NotebookNode") -> None:
    """Take out of an executed notebook, in place, what differs between equal runs.

    That is times, papermill's notes, cell ids, the kernel's version, and what was printed to
    stderr (progress and time left). Consecutive pieces of stdout are joined: where they are cut
    depends on timing.
    """
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
    }
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i:02d}"
        tags = cell.metadata.get("tags", [])
        cell.metadata = {"tags": tags} if tags else {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    CoalesceStreamsPreprocessor().preprocess(notebook, {})


def strip(sources: list[Path], output: Path) -> None:
    """Copy notebooks without outputs, counts and editor metadata, so that saving them in
    JupyterLab changes nothing that a stage depends on."""
    import nbformat
    from nbstripout import strip_output

    output.mkdir(parents=True, exist_ok=True)
    for path in sources:
        notebook = strip_output(
            nbformat.read(path, as_version=4), keep_output=False, keep_count=False, keep_id=False
        )
        normalise(notebook)
        nbformat.write(notebook, output / path.name)


def _as_declared(name: str, text: str, default: int | str) -> int | str:
    """A number where the notebook's own value is one, and else text, of digits too."""
    if isinstance(default, str):
        return text
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise InputError(f"{name}: expected a whole number, found {reprlib.repr(text)}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
