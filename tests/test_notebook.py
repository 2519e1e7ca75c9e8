"""Tests of `cfnsr.notebook`."""

import os
import shutil
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
from conftest import REPOSITORY

from cfnsr import InputError, notebook


def cell(source, **metadata):
    return nbformat.v4.new_code_cell(source, metadata=metadata)


def write(path, *cells):
    declared = cell("n = 1\nname = 'a'", tags=["parameters"])
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = nbformat.v4.new_notebook(cells=[declared, *cells], metadata={"kernelspec": kernel})
    nbformat.write(notebook, path)
    return path


@pytest.fixture(autouse=True)
def in_a_repository(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text("")
    monkeypatch.chdir(tmp_path)


def outputs(path):
    return [
        output
        for each in nbformat.read(path, as_version=4).cells
        if each.cell_type == "code"
        for output in each.outputs
    ]


def test_parameters_reach_the_notebook_and_its_progress_the_terminal(tmp_path, capfd):
    source = write(
        tmp_path / "a.ipynb",
        cell("import os, sys; print(n + 1, name, os.getcwd()); print('half', file=sys.stderr)"),
    )
    executed = tmp_path / "out" / "a.ipynb"
    assert notebook.main([str(source), str(executed), "-p", "n", "4", "-p", "name", "1e-4"]) == 0
    assert outputs(executed)[0].text == f"5 1e-4 {tmp_path}\n"
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "half\n")


def test_a_parameter_that_the_notebook_lacks_is_refused(tmp_path, capsys):
    source = write(tmp_path / "a.ipynb")
    assert notebook.main([str(source), str(tmp_path / "b.ipynb"), "-p", "m", "4"]) == 1
    message = capsys.readouterr().err
    assert message == f"error: {source} has no parameter m; its parameters cell declares n, name\n"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n", "²", "n: expected a whole number, found '²'"),
        ("n", "9" * 5000, "n: expected a whole number, found '999999999999...9999999999999'"),
        ("n", "", "n: expected a whole number, found ''"),
    ],
)
def test_a_parameter_of_another_type_is_refused(tmp_path, capsys, name, value, message):
    source = write(tmp_path / "a.ipynb")
    assert notebook.main([str(source), str(tmp_path / "b.ipynb"), "-p", name, value]) == 1
    assert capsys.readouterr().err == f"error: {message}\n"


def test_digits_are_text_where_the_notebook_declares_text(tmp_path):
    source = write(tmp_path / "a.ipynb", cell("print(repr(name))"))
    notebook.main([str(source), str(tmp_path / "b.ipynb"), "-p", "name", "5"])
    assert outputs(tmp_path / "b.ipynb")[0].text == "'5'\n"


def test_a_notebook_that_is_not_there_is_one_line(tmp_path, capsys):
    assert notebook.main(["none.ipynb", str(tmp_path / "b.ipynb")]) == 1
    assert capsys.readouterr().err.startswith("error: none.ipynb is no file; expected one of ")


def test_what_is_asked_for_goes_by_group(capsys):
    with pytest.raises(SystemExit):
        notebook.main(["a.ipynb", "b.ipynb", "--if-asked"])
    assert "needs the parameter group" in capsys.readouterr().err


def test_an_input_error_in_a_cell_becomes_one_line(tmp_path, capsys):
    raising = "from cfnsr import InputError\nraise InputError('fold is 9, expected 1 to 6')"
    source = write(tmp_path / "a.ipynb", cell(raising))
    assert notebook.main([str(source), str(tmp_path / "b.ipynb")]) == 1
    assert capsys.readouterr().err == "error: fold is 9, expected 1 to 6\n"
    assert not (tmp_path / "b.ipynb").exists()


def test_a_disk_that_cannot_take_the_notebook_is_one_line(tmp_path, bad_disk, capsys):
    folder, answer = bad_disk
    source = write(tmp_path / "a.ipynb", cell("print('a' * 100_000)"))
    assert notebook.main([str(source), str(folder / "a.ipynb")]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: {folder}")
    assert f"cannot be written: {answer}" in message
    assert message.count("\n") == 1


def test_a_disk_that_refuses_what_a_cell_writes_is_one_line(tmp_path, bad_disk, capsys):
    folder, answer = bad_disk
    writes = f"from pathlib import Path; Path('{folder}/metrics.json').write_text('a' * 100_000)"
    source = write(tmp_path / "a.ipynb", cell(writes))
    assert notebook.main([str(source), str(folder / "a.ipynb")]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"error: {folder} cannot be written: ")
    assert answer in message


@pytest.mark.parametrize("value", ["²", "٣", "9" * 5000, "--1", "1_000", ""])
def test_only_plain_whole_numbers_are_numbers(value):
    with pytest.raises(InputError, match="n: expected a whole number"):
        notebook._as_declared("n", value, 1)
    assert notebook._as_declared("n", value, "a") == value
    assert notebook._as_declared("n", "-12", 1) == -12


def test_any_other_exception_keeps_its_traceback_and_the_notebook(tmp_path):
    from papermill import PapermillExecutionError

    source = write(tmp_path / "a.ipynb", cell("1 / 0"))
    with pytest.raises(PapermillExecutionError, match="ZeroDivisionError"):
        notebook.main([str(source), str(tmp_path / "b.ipynb")])
    assert (tmp_path / "build/failed/b.ipynb").exists()


@pytest.mark.parametrize(
    ("asked", "passed_over"),
    [
        ("fold: 2", True),
        ("row: no_residual", False),  # its encoders are systems
        ("row: mmtm", False),
        ("{}", False),
    ],
)
def test_what_params_does_not_ask_for_is_passed_over_and_left_alone(
    tmp_path, monkeypatch, asked, passed_over
):
    (tmp_path / "params.yaml").write_text(asked)
    kept = tmp_path / "runs/x/kept"
    kept.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    started = []
    monkeypatch.setattr(notebook, "run", lambda *arguments: started.append(arguments))
    options = ["--if-asked", "-p", "group", "systems", "-p", "fold", "1"]
    assert notebook.main(["none.ipynb", "runs/x/none.ipynb", *options]) == 0
    assert bool(started) != passed_over
    assert kept.is_dir()


def test_passing_over_loads_no_heavy_library(tmp_path):
    (tmp_path / "params.yaml").write_text("row: mmtm")
    code = (
        "import sys; from cfnsr.notebook import main; "
        "status = main(['none.ipynb', 'runs/x/none.ipynb', '--if-asked', '-p', 'group', "
        "'hybrid', '-p', 'fold', '1']); "
        "heavy = ('papermill', 'torch', 'numpy', 'distributed'); "
        "print(status, [m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "0 []\n"
    assert list((tmp_path / "runs/x").iterdir()) == []


@pytest.mark.parametrize(
    ("before", "module", "starts"),
    [
        ("", "cfnsr.notebook a.ipynb b.ipynb", "ipykernel"),
        ("", "cfnsr dataset", "spawn_main"),
        ("sleep 3; ", "cfnsr dataset", "sleep"),  # the command itself comes after DVC's end
    ],
)
def test_a_stage_ends_when_the_dvc_that_runs_it_is_killed(before, module, starts, tmp_path):
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    write(tmp_path / "a.ipynb", cell("import time; time.sleep(600)"))
    stage = f"{before}{sys.executable} -m {module}"
    dvc = tmp_path / "dvc"
    dvc.write_text(
        f"#!{sys.executable}\nimport subprocess; subprocess.run({stage!r}, shell=True)\n"
    )
    dvc.chmod(0o755)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "DVC_ROOT": str(tmp_path)}
    process = subprocess.Popen([str(dvc)], cwd=tmp_path, env=environment)
    deadline = time.monotonic() + 60
    while not any(starts in " ".join(p.cmdline()) for p in descendants(process.pid)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    started = descendants(process.pid)
    process.kill()  # and not waited for: it may stay a zombie
    _, alive = psutil.wait_procs(started, timeout=10)
    process.wait()
    assert not alive


def descendants(pid):
    return psutil.Process(pid).children(recursive=True)


def test_equal_runs_give_equal_bytes_and_no_times(tmp_path):
    noisy = "import sys, time\nprint('a')\nprint(time.time(), file=sys.stderr)\nprint('b')"
    source = write(tmp_path / "a.ipynb", cell(noisy))
    for name in ("one", "two"):
        notebook.main([str(source), str(tmp_path / name / "a.ipynb")])
    one, two = ((tmp_path / name / "a.ipynb").read_bytes() for name in ("one", "two"))
    assert one == two
    assert [output.text for output in outputs(tmp_path / "one" / "a.ipynb")] == ["a\nb\n"]


def test_saving_outputs_in_jupyterlab_changes_nothing_in_the_stripped_source(tmp_path):
    source = write(tmp_path / "a.ipynb", cell("print(n)"))
    notebook.strip([source], tmp_path / "before")
    saved = nbformat.read(source, as_version=4)
    saved.cells[1].outputs = [nbformat.v4.new_output("stream", name="stdout", text="1\n")]
    saved.cells[1].execution_count = 7
    saved.cells[1].metadata = {"collapsed": False, "ExecuteTime": {"start_time": "now"}}
    saved.metadata = {
        "kernelspec": {"display_name": "cfnsr", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "version": "3.13.1"},
    }
    nbformat.write(saved, source)
    notebook.strip([source], tmp_path / "after")
    before, after = ((tmp_path / name / "a.ipynb").read_bytes() for name in ("before", "after"))
    assert before == after
    tags = [each.metadata.get("tags", []) for each in nbformat.reads(after, as_version=4).cells]
    assert tags == [["parameters"], []]


@pytest.mark.parametrize("path", sorted((REPOSITORY / "notebooks").glob("*.ipynb")), ids=str)
def test_committed_notebooks_are_sources(path):
    content = nbformat.read(path, as_version=4)
    nbformat.validate(content)
    code = [each for each in content.cells if each.cell_type == "code"]
    assert not any(each.outputs or each.execution_count for each in code)
    assert sum("parameters" in each.metadata.get("tags", []) for each in code) == 1
    assert not any(
        line.startswith(("def ", "class ")) for each in code for line in each.source.splitlines()
    )
    assert content.cells[0].source.startswith("# ")
