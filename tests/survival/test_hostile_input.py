"""Hostile parameters, runs, weights, archives and servers: one line each, within a time limit."""

import copy
import io
import json
import random
import shutil
import sys
import zipfile

import pytest
import torch
from conftest import train_row
from harness import FETCH, read_all, refusal, running
from test_download import VIDEO, Endless, Fault, Zenodo, build_zip, described
from test_notebook import cell, write
from test_params import bomb
from test_train import settings

from cfnsr.data.clips import load_clips
from cfnsr.models.base import Sizes
from cfnsr.models.registry import find
from cfnsr.params import Schedule
from cfnsr.training.experiment import read_tensors, start_from
from cfnsr.training.runs import read_run, run_folder
from cfnsr.training.trained import load_trained

pytestmark = pytest.mark.slow
PARAMS = {
    "deep lists": "data: " + 50_000 * "[" + 50_000 * "]",
    "deep maps": "a: " + 50_000 * "{a: " + 50_000 * "}",
    "5,000 digits": "fold: " + 5_000 * "9",
    "alias bomb": bomb("[{}]"),
    "merge bomb": bomb("{{<<: [{}]}}", "{x: 1}"),
    "holds itself": "&a [*a]",
    "no such user": "synthetic: {root: ~nosuchuser}",
    "cardinality 3": "synthetic: {model: {cardinality: 3}}",
    "7 heads": "synthetic: {model: {n_heads: 7}}",
    "text for a number": "seeds: [one]",
    "number for a section": "synthetic: 3",
    "list": "[1, 2]",
    "null": "seeds: null",
    "infinite": "synthetic: {training: {audio: {learning_rate: .inf}}}",
    "python": "data: !!python/object/apply:os.system [true]",
    "no YAML": "\tdata: [",
    "bytes": b"\xff\xfe\x00",
    "many characters": "row: " + 10_000_000 * "a",
}
NOTEBOOK = {
    "superscript": ("-p", "n", "²"),
    "5,000 digits": ("-p", "n", 5_000 * "9"),
    "text": ("-p", "n", "'; import os"),
    "undeclared": ("-p", "m", "1"),
    "no name": ("-p", "", "1"),
}
#: In the place of each value of run.json.
VALUES = (None, True, -1, 10**30, 1e308, "", "a" * 100_000, [], [[]], {}, {"a": {}}, [None] * 1000)


def record(counts, subject, kind, outcome, said, expected="one line"):
    counts.add(subject, kind, "tried")
    counts.add(subject, kind, outcome)
    assert outcome == expected, said


@pytest.mark.parametrize("kind", PARAMS)
def test_hostile_params(kind, tmp_path, counts):
    text = PARAMS[kind]
    (tmp_path / "params.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    found = refusal(sys.executable, "-m", "cfnsr", "predictions", cwd=tmp_path)
    record(counts, "params.yaml", kind, *found)


@pytest.mark.parametrize("kind", NOTEBOOK)
def test_hostile_notebook_parameters(kind, tmp_path, counts):
    (tmp_path / "params.yaml").touch()
    source = write(tmp_path / "a.ipynb", cell("print(n + 1)"))
    words = (sys.executable, "-m", "cfnsr.notebook", source, tmp_path / "b.ipynb")
    record(counts, "notebook parameters", kind, *refusal(*words, *NOTEBOOK[kind], cwd=tmp_path))


@pytest.fixture(scope="module")
def trained(random_arrays, tmp_path_factory):
    """The folder of a run of row audio."""
    runs = tmp_path_factory.mktemp("runs")
    params = settings(audio=Schedule(n_epochs=1, batch_size=16))
    train_row("audio", 1, params, load_clips(random_arrays), runs)
    return run_folder(runs, "audio", 1, 1)


def load(folder):
    """Whether a run is read, and what its network and its predictions are."""
    kept = read_run(folder).test.logits.tobytes()
    weights = load_trained(folder, "cpu").model.state_dict()
    return kept, [value.numpy().tobytes() for value in weights.values()]


def start(path):
    """What an encoder starts from that is given a checkpoint without a run.json."""
    module = find("audio").build(Sizes()).audio
    start_from(module, "audio", path)
    return [value.numpy().tobytes() for value in module.state_dict().values()]


def keep_counts(counts, subject, kind, answers, whole):
    """Count what came of damaged runs or weights; none may crash or be used as another."""
    bad = []
    for outcome, said in answers:
        if outcome == "used":
            outcome = "used as it is" if said == whole else "used as another"
        outcome = "one line" if outcome == "rejected" else outcome
        counts.add(subject, kind, "tried")
        counts.add(subject, kind, outcome)
        if outcome not in ("one line", "used as it is"):
            bad.append((outcome, said if isinstance(said, str) else ""))
    assert not bad, bad[:3]


def test_run_json_of_wrong_types(trained, tmp_path, counts):
    info = json.loads((trained / "run.json").read_text())
    places = [(name,) for name in info]
    places += [(name, key) for name in info if isinstance(info[name], dict) for key in info[name]]
    folders = []
    for i, (place, value) in enumerate((place, value) for place in places for value in VALUES):
        spoilt = copy.deepcopy(info)
        *outer, last = place
        (spoilt[outer[0]] if outer else spoilt)[last] = value
        folders.append(shutil.copytree(trained, tmp_path / str(i)))
        (folders[-1] / "run.json").write_text(json.dumps(spoilt))
    answers = read_all(load, [(folder,) for folder in folders], (trained,))
    keep_counts(counts, "runs", "run.json of wrong types", answers, load(trained))


@pytest.mark.parametrize("kind", ["of a run", "of a checkpoint"])
def test_weights_with_flipped_bits(kind, trained, tmp_path, counts):
    read = load if kind == "of a run" else start
    rng, jobs = random.Random(kind), []
    whole = shutil.copytree(trained, tmp_path / "whole") / "weights.pt"
    if read is start:
        (whole.parent / "run.json").unlink()
    for i in range(100):
        folder = shutil.copytree(whole.parent, tmp_path / str(i))
        content = bytearray(whole.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (folder / "weights.pt").write_bytes(content)
        jobs.append((folder if read is load else folder / "weights.pt",))
    good = whole.parent if read is load else whole
    answers = read_all(read, jobs, (good,))
    keep_counts(counts, "runs", f"a flipped bit in the weights {kind}", answers, read(good))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(value, trained, tmp_path, counts):
    weights = read_tensors(trained / "weights.pt")
    next(iter(weights.values())).view(-1)[0] = value
    torch.save(weights, tmp_path / "weights.pt")
    answers = read_all(start, [(tmp_path / "weights.pt",)], (trained / "weights.pt",))
    keep_counts(counts, "runs", f"weights with {value}", answers, None)


def with_files(change, **options):
    """The archive of actor 5 with its files changed."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED, **options) as members:
        for i, name in enumerate(VIDEO.files):
            members.writestr(*change(i, name))
    return memory.getvalue()


def flipped(content):
    content = bytearray(content)
    content[len(content) // 2] ^= 1
    return bytes(content)


ARCHIVES = {
    "climbs": lambda: build_zip(VIDEO, "../../"),
    "of empty files": lambda: build_zip(VIDEO, n_bytes=0),
    "bomb": lambda: with_files(lambda i, name: (name, bytes(200_000_000 if i == 3 else 10))),
    "cut": lambda: build_zip(VIDEO)[:200_000],
    "a flipped bit": lambda: flipped(build_zip(VIDEO)),
    "no zip": lambda: b"<html>Sign in</html>",
    "of folders": lambda: with_files(lambda i, name: (f"{name}/", b"")),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_hostile_archives_put_there_by_hand(kind, small_disk, counts):
    """Without a connection: nothing but the zip itself says what it should be."""
    root = small_disk / "a/b/data"
    (root / "archives").mkdir(parents=True)
    (root / "archives" / VIDEO.name).write_bytes(ARCHIVES[kind]())
    found = refusal(sys.executable, "-c", FETCH, root, "http://127.0.0.1:9", NO_PROXY="127.0.0.1")
    # Base names alone are used of the paths in a zip.
    record(counts, "archives", kind, *found, "done" if kind == "climbs" else "one line")
    others = [path for path in small_disk.rglob("*") if path.is_file() and root not in path.parents]
    assert not others
    assert not list(small_disk.rglob("*.part"))


SERVERS = {
    "sends less than it announces": [Fault(n_bytes=1_000)],
    "cuts off": [Fault(n_bytes=1_000, reset=True)],
    "sends more than it announces": None,  # without end
    "sends another file": [Fault(body=bytes(310_000))],
    "fails": [Fault(500)],
    "hides the record": [Fault(404)],
    "nests the record": [Fault(body=b"[" * 1_000_000)],
    "describes nonsense": [Fault(body=described(size="many"))],
}


@pytest.mark.parametrize("kind", SERVERS)
def test_hostile_servers(kind, tmp_path, counts):
    """Each answers as badly whenever it is asked."""
    with running(Zenodo()) as zenodo:
        zenodo.publish(VIDEO, build_zip(VIDEO))
        if SERVERS[kind] is None:
            zenodo.endless = Endless()
        else:
            of_record = "record" in kind or kind == "describes nonsense"
            zenodo.faults["api" if of_record else VIDEO.name] = SERVERS[kind] * 100
        words = (sys.executable, "-c", FETCH, tmp_path, zenodo.url)
        record(counts, "servers", kind, *refusal(*words, NO_PROXY="127.0.0.1"))
    assert not list(tmp_path.rglob("*.mp4"))
