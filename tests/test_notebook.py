"""Tests of `cfnsr.notebook` and of the warm server that it may use."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbformat
import pytest

from cfnsr import notebook, warm

REPOSITORY = Path(__file__).parents[1]


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


@pytest.fixture
def cold(monkeypatch):
    monkeypatch.setenv("CFNSR_WARM", "0")


def outputs(path):
    return [
        output
        for each in nbformat.read(path, as_version=4).cells
        if each.cell_type == "code"
        for output in each.outputs
    ]


def test_parameters_reach_the_notebook_and_prints_are_streamed(tmp_path, cold, capfd):
    source = write(tmp_path / "a.ipynb", cell("import os; print(n + 1, name, os.getcwd())"))
    executed = tmp_path / "out" / "a.ipynb"
    assert notebook.main([str(source), str(executed), "-p", "n", "4", "-p", "name", "1e-4"]) == 0
    assert outputs(executed)[0].text == f"5 1e-4 {tmp_path}\n"
    assert f"5 1e-4 {tmp_path}" in capfd.readouterr().out


def test_a_parameter_that_the_notebook_lacks_is_refused(tmp_path, cold, capsys):
    source = write(tmp_path / "a.ipynb")
    assert notebook.main([str(source), str(tmp_path / "b.ipynb"), "-p", "m", "4"]) == 1
    message = capsys.readouterr().err
    assert message == f"error: {source} has no parameter m; its parameters cell declares n, name\n"


def test_an_input_error_in_a_cell_becomes_one_line(tmp_path, cold, capsys):
    raising = "from cfnsr.errors import InputError\nraise InputError('fold is 9, expected 1 to 6')"
    source = write(tmp_path / "a.ipynb", cell(raising))
    assert notebook.main([str(source), str(tmp_path / "b.ipynb")]) == 1
    assert capsys.readouterr().err == "error: fold is 9, expected 1 to 6\n"
    assert not (tmp_path / "b.ipynb").exists()


def test_any_other_exception_keeps_its_traceback_and_the_notebook(tmp_path, cold):
    from papermill import PapermillExecutionError

    source = write(tmp_path / "a.ipynb", cell("1 / 0"))
    with pytest.raises(PapermillExecutionError, match="ZeroDivisionError"):
        notebook.main([str(source), str(tmp_path / "b.ipynb")])
    assert (tmp_path / "build/failed/b.ipynb").exists()


def test_a_run_that_is_not_planned_leaves_an_empty_folder_before_any_heavy_import(tmp_path):
    (tmp_path / "plan.json").write_text('{"run": false}')
    code = (
        "import sys; from cfnsr.notebook import main; "
        "status = main(['none.ipynb', 'runs/x/none.ipynb', '--when', 'plan.json']); "
        "print(status, [m for m in ('papermill', 'torch', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0 []\n"
    assert list((tmp_path / "runs/x").iterdir()) == []


def test_equal_runs_give_equal_bytes_and_no_times(tmp_path, cold):
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


@pytest.fixture(scope="module")
def server_folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("warm"))


@pytest.fixture
def warm_server(monkeypatch, server_folder):
    """A server of these tests' own."""
    monkeypatch.setattr(tempfile, "tempdir", server_folder)
    monkeypatch.setenv("TMPDIR", server_folder)
    monkeypatch.delenv("CFNSR_WARM", raising=False)
    if not warm.is_possible():
        pytest.skip("the warm server is not used on this machine")


def test_a_warm_notebook_equals_a_cold_one_with_figures_and_tables(
    tmp_path, warm_server, monkeypatch
):
    plot = "import matplotlib.pyplot as plt\nplt.plot([1, n])[0].figure\nprint(n)"
    wide = "import pandas as pd\npd.DataFrame({k * 'long': [k] for k in range(1, 12)})"
    source = write(tmp_path / "a.ipynb", cell(plot), cell(wide))
    for name, wanted in (("warm", "1"), ("again", "1"), ("cold", "0")):
        monkeypatch.setenv("CFNSR_WARM", wanted)
        assert notebook.main([str(source), str(tmp_path / name / "a.ipynb"), "-p", "n", "3"]) == 0
    contents = {
        name: (tmp_path / name / "a.ipynb").read_bytes() for name in ("warm", "again", "cold")
    }
    assert contents["warm"] == contents["again"] == contents["cold"]
    assert any(
        "image/png" in output.get("data", {}) for output in outputs(tmp_path / "warm/a.ipynb")
    )


def test_a_warm_notebook_reports_an_input_error_like_a_cold_one(tmp_path, warm_server, capfd):
    raising = "from cfnsr.errors import InputError\nraise InputError('no clips')"
    source = write(tmp_path / "a.ipynb", cell(raising))
    assert notebook.main([str(source), str(tmp_path / "b.ipynb")]) == 1
    assert capfd.readouterr().err.endswith("error: no clips\n")


def test_a_warm_process_ends_with_whoever_asked_for_it(tmp_path, warm_server):
    script = (
        "from cfnsr import warm; "
        "process = warm.start('sleeper:main', []); print(process.pid, flush=True); process.wait()"
    )
    (tmp_path / "sleeper.py").write_text("import time\ndef main(_): time.sleep(600)\n")
    asker = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pid = int(asker.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    asker.kill()
    asker.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


def test_a_folder_that_the_fork_cannot_enter_is_its_exit_status_and_not_its_process_id(
    warm_server, monkeypatch
):
    monkeypatch.setattr(warm.Path, "cwd", lambda: "/nowhere")
    process = warm.start("sleeper:main", [])
    assert process.pid > 1
    assert process.wait() == 1


@pytest.fixture
def dying_forks(warm_server, tmp_path_factory, monkeypatch):
    """A server whose forks end before they answer."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("dying")))
    monkeypatch.setattr(warm, "_start_server", lambda: None)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(warm._address()))
    listener.listen()

    def serve():
        while True:
            connection, _ = listener.accept()
            _, streams, _, _ = socket.recv_fds(connection, 1, 3)
            connection.makefile("rb").readline()
            for stream in streams:
                os.close(stream)
            connection.close()

    threading.Thread(target=serve, daemon=True).start()


def test_a_notebook_whose_fork_dies_before_it_answers_is_run_without_one(tmp_path, dying_forks):
    source = write(tmp_path / "a.ipynb", cell("print(n)"))
    assert notebook.main([str(source), str(tmp_path / "b.ipynb")]) == 0
    assert outputs(tmp_path / "b.ipynb")[0].text == "1\n"


def test_scalars_are_whole_numbers_or_text():
    assert [notebook._scalar(text) for text in ("4", "-1", "1e-4", "cfn_sr")] == [
        4,
        -1,
        "1e-4",
        "cfn_sr",
    ]


def test_a_notebook_outside_a_repository_says_so(tmp_path, capsys):
    (tmp_path / "params.yaml").unlink()
    assert notebook.main(["a.ipynb", "b.ipynb"]) == 1
    assert capsys.readouterr().err.startswith(f"error: no params.yaml in {tmp_path}")
