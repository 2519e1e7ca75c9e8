"""Every notebook opened in JupyterLab, Run All, and its saved copy read."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

pytestmark = pytest.mark.browser

REPOSITORY = Path(__file__).parents[2]
SECONDS = 600
HAS_KERNEL = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
#: The command of the menu's Run All Cells; clicked before the kernel has answered it does nothing.
RUN_ALL = """async () => {
  const { context, sessionContext } = jupyterapp.shell.currentWidget;
  await Promise.all([context.ready, sessionContext.ready, sessionContext.session.kernel.info]);
  await jupyterapp.commands.execute("notebook:run-all-cells");
  await context.save();
}"""
#: What a notebook needs of a reproduction, beside what is in git.
NEEDS = {
    "01_preprocess": ["build/synthetic/manifest.csv", "data/synthetic"],
    "02_train": ["build/synthetic/arrays", "runs/synthetic/paper/systems/fold_1/cfn_sr"],
    "04_attention": ["build/synthetic/arrays", "runs/synthetic/paper/systems/fold_5"],
    "06_your_own_clip": ["data/synthetic", "runs/synthetic/paper/systems/fold_1/cfn_sr"],
    "07_paper_versus_release": ["runs/synthetic/paper/switches/fold_5"],
    "09_hybrid": ["runs/synthetic/paper/hybrid/fold_5"],
}


@pytest.fixture(scope="module")
def lab(copy, tmp_path_factory):
    """The address of a JupyterLab in the copy, with a home of its own."""
    home = tmp_path_factory.mktemp("home")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.port={port}", "--IdentityProvider.token=test"]
    command += ["--LabApp.expose_app_in_browser=True"]
    process = subprocess.Popen(
        command,
        cwd=copy,
        env=os.environ | {"HOME": str(home), "PYTHONPATH": str(copy)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not answers(port):
        assert process.poll() is None
        time.sleep(0.2)
    # A workspace for each, or the notebooks opened before would open too.
    yield f"http://127.0.0.1:{port}/lab/workspaces/{{0}}/tree/notebooks/{{0}}.ipynb?token=test"
    process.terminate()
    process.wait()


def answers(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("name", sorted(path.stem for path in REPOSITORY.glob("notebooks/*.ipynb")))
def test_a_notebook_runs_to_its_end_and_shows_its_figures(name, copy, browser, lab):
    missing = [need for need in NEEDS.get(name, []) if not (copy / need).exists()]
    if missing:
        pytest.skip(f"needs {missing[0]}, which `make repro` or `dvc exp run -S row=…` leaves")
    path = copy / "notebooks" / f"{name}.ipynb"
    elsewhere = []
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.on("request", lambda request: elsewhere.append(request.url) if outside(request) else None)
    page.goto(lab.format(name))
    page.wait_for_function(HAS_KERNEL, timeout=SECONDS * 1000)
    page.evaluate(RUN_ALL)  # also returns after a cell's error
    cells = code_cells(path)
    assert not errors(cells)
    assert all(cell.execution_count for cell in cells)
    pictures = [output for cell in cells for output in cell.outputs if is_picture(output)]
    assert pictures
    assert page.locator(".jp-OutputArea-output img").count()
    assert not elsewhere
    page.close()


def outside(request):
    return not request.url.startswith(("http://127.0.0.1", "data:", "blob:"))


def code_cells(path):
    notebook = nbformat.read(path, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source]


def errors(cells):
    return [
        output.evalue for cell in cells for output in cell.outputs if output.output_type == "error"
    ]


def is_picture(output):
    return "image/png" in output.get("data", {})
