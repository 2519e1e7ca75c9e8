import csv
import gzip
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from test_scores import all_folds, run

from cfnsr import InputError, params
from cfnsr.__main__ import main
from cfnsr.evaluation import predictions, scores, tables, typeset
from cfnsr.evaluation.selection import RULES, with_epochs
from cfnsr.models.registry import EXTRA, ROWS, TABLE_1, TABLE_2
from cfnsr.training.runs import Accuracies, Decisions, write_predictions

pytestmark = pytest.mark.filterwarnings("error")

REPOSITORY = Path(__file__).parents[2]
COMMITTED = sorted(path.parent for path in (REPOSITORY / "figures").glob("*/predictions"))
SETTINGS = "data: ravdess\nfold: 2\nrow: audio\nseeds: [1]\n"
INFO = {
    "data": "synthetic",
    "n_parameters": 1000,
    "forward_gflops": 0.25,
    "device": "cpu",
    "n_threads": 1,
    "data_sha256": "of the data",
    "model": {"class": "a.B", "n_heads": 8},
    "schedule": {"n_epochs": 5},
    "training": {"n_threads": 1, "precision": "32-true", "standardise_mfcc": True},
    "preprocess": {"n_frames": 6, "rejected": "stop"},
    "pretrained_sha256": None,
    "weights_sha256": "of the weights",
    "versions": {"torch": "2.0"},
    "actors": {"test": [1, 2]},
    "scaling": {},
}


def trained(run, protocol="paper", **changes):
    epoch = np.arange(1, run.n_epochs + 1)
    history = {"epoch": epoch, "train_loss": 1 / epoch, "train_accuracy_pct": 100 - 10.0 / epoch}
    info = INFO | {"protocol": protocol} | changes
    return replace(run, info=info, epochs=pd.DataFrame(history))


def paper(rows=("audio", "cfn_sr"), **changes):
    return [
        trained(run, **changes)
        for row in rows
        for run in all_folds(row, n_epochs=5)
        if run.fold < 6
    ]


def nested(rows=("audio", "cfn_sr"), **changes):
    def with_validation(tested):
        chosen_on = run(7 - tested.fold, tested.seed + 10, row=tested.row, n_epochs=5).test
        return replace(trained(tested, "nested", **changes), validation=chosen_on)

    return [with_validation(tested) for row in rows for tested in all_folds(row, n_epochs=5)]


def back(runs, folder):
    predictions.write(runs, folder)
    return predictions.read(folder)


@pytest.mark.parametrize("runs", [paper(), nested()], ids=["paper", "nested"])
def test_every_rule_scores_what_was_kept_as_it_scores_the_runs(runs, tmp_path):
    kept = back(runs, tmp_path)
    assert {type(run.test) for run in kept} == {Decisions}
    for row in ("audio", "cfn_sr"):
        before = [run for run in runs if run.row == row]
        after = [run for run in kept if run.row == row]
        for rule in RULES:
            chosen = [(run.fold, run.seed, epoch) for run, epoch in with_epochs(before, rule)]
            found = [(run.fold, run.seed, epoch) for run, epoch in with_epochs(after, rule)]
            assert found == chosen
            expected = vars(scores.score(before, rule)).copy()
            score = vars(scores.score(after, rule)).copy()
            # probabilities have three decimals; so near an edge of a bin a clip may change it
            assert score.pop("ece") == pytest.approx(expected.pop("ece"), abs=2e-3, nan_ok=True)
            assert score == pytest.approx(expected, nan_ok=True)
            assert (len(chosen) > 0) == (
                "validation" not in rule or runs[0].info["protocol"] == "nested"
            )


def test_tests_confusions_and_curves_follow_too(tmp_path):
    runs = paper()
    kept = back(runs, tmp_path)
    before, after = (tables.by_protocol(found) for found in (runs, kept))
    pd.testing.assert_frame_equal(tables.paired_tests(before), tables.paired_tests(after))
    for a, b in zip(before["paper"]["audio"], after["paper"]["audio"], strict=True):
        np.testing.assert_allclose(a.epochs.to_numpy(), b.epochs.to_numpy(), rtol=5e-4)
        one, other = (
            scores.confusion(scores.outcomes([run], "last epoch"), run.corpus.emotions)
            for run in (a, b)
        )
        assert (one == other).all(axis=None)


def test_confidence_is_kept_in_the_epochs_that_a_rule_reports_and_no_other(tmp_path):
    runs = paper()
    reported = {
        (run.row, run.fold, run.seed, epoch)
        for row in ("audio", "cfn_sr")
        for rule in RULES
        for run, epoch in with_epochs([run for run in runs if run.row == row], rule)
    }
    kept = {
        (run.row, run.fold, run.seed, epoch)
        for run in back(runs, tmp_path)
        for epoch in 1 + np.flatnonzero(np.isfinite(run.test.confidence).all(axis=1))
    }
    assert kept == reported
    assert len(kept) < sum(run.n_epochs for run in runs)


def test_what_was_kept_names_every_clip_with_its_actor_and_emotion(tmp_path):
    one = paper()[0]
    predictions.write([one], tmp_path)
    with gzip.open(tmp_path / "clips.csv.gz", "rt") as file:
        lines = {line["clip"]: line for line in csv.DictReader(file)}
    assert len(lines) == len(one.test.clips)
    for k, (clip, actor, emotion) in enumerate(one.test.clips.itertuples(index=False)):
        line = lines[clip]
        assert (int(line["actor"]), int(line["emotion"])) == (actor, emotion)
        assert [int(digit) for digit in line["predicted"]] == one.test.predicted[:, k].tolist()


def test_validation_actors_are_kept_as_accuracies_alone(tmp_path):
    run = nested()[0]
    (kept,) = back([run], tmp_path)
    assert isinstance(kept.validation, Accuracies)
    assert kept.validation.accuracy_pct == pytest.approx(run.validation.accuracy_pct, abs=0.0051)
    (without,) = back([paper()[0]], tmp_path)
    assert without.validation is None


def test_equal_runs_give_equal_bytes(tmp_path):
    predictions.write(nested(), tmp_path / "first")
    predictions.write(nested(), tmp_path / "second")
    names = ["clips.csv.gz", "epochs.csv", "runs.csv"]
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == names
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_the_packed_file_has_neither_name_nor_time(tmp_path):
    predictions.write(paper()[:1], tmp_path)
    content = (tmp_path / "clips.csv.gz").read_bytes()
    assert content[3] == 0  # no name follows
    assert content[4:8] == bytes(4)  # the time


def test_both_protocols_stand_side_by_side_in_one_table(tmp_path):
    rows = ["video", "audio", "cfn_sr"]
    predictions.write(paper(rows), tmp_path / "paper")
    predictions.write(nested(rows), tmp_path / "nested")
    for protocol in ("paper", "nested"):
        own, others = predictions.read_comparable(tmp_path, protocol)
        assert {run.info["protocol"] for run in own} == {protocol}
        by_protocol = tables.by_protocol(own + others)
        found = tables.table(TABLE_1, by_protocol)
        last = found[found["rule"] == "last epoch"]
        assert [*zip(last["row"], last["protocol"], last["n_folds"], strict=True)] == [
            (row, *folds) for row in rows for folds in (("paper", 5), ("nested", 6))
        ]
        tests = tables.paired_tests(by_protocol)
        ceilings = tables.ceilings(params.Params(data="ravdess"))
        caption = typeset.caption("Systems", "ravdess", by_protocol)
        text = typeset.Printed(found, tests, ceilings, caption).markdown()
        assert (
            "protocol paper, folds 1 to 5, 320 test clips, 2 seeds a fold; protocol nested" in text
        )
        lines = [line for line in text.splitlines() if line.startswith("| ")]
        assert [line.split(" | ")[1] for line in lines[2:]] == ["paper", "nested"] * 3
        assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({"data_sha256": "of other data"}, set()),
        ({"schedule": {"n_epochs": 9}}, set()),
        ({"training": {"standardise_mfcc": False}}, set()),
        ({"training": INFO["training"] | {"n_threads": 8}}, {"audio"}),
        ({"device": "a GPU"}, {"audio"}),
        ({"preprocess": {"n_frames": 6, "rejected": "skip"}}, {"audio"}),
        ({"preprocess": {"n_frames": 5, "rejected": "stop"}}, set()),
        ({"pretrained_sha256": "of a checkpoint"}, set()),
    ],
)
def test_another_protocol_stands_beside_only_if_data_and_settings_are_equal(
    changes, rows, tmp_path
):
    predictions.write(paper(["audio"]), tmp_path / "paper")
    predictions.write(nested(["video", "audio"], **changes), tmp_path / "nested")
    own, others = predictions.read_comparable(tmp_path, "paper")
    assert {run.row for run in own} == {"audio"}
    assert {run.row for run in others} == rows


@pytest.mark.parametrize(
    "changes", [{"data_sha256": "of other data"}, {"schedule": {"n_epochs": 9}}], ids="_".join
)
@pytest.mark.parametrize(
    ("rows", "changed", "beside"),
    [
        (["video", "audio", "cfn_sr"], "cfn_sr", {"video", "audio"}),
        (["video", "audio", "cfn_sr"], "audio", {"video"}),
        (["motion_voice", "motion_voice_averaged"], "motion_voice", set()),
    ],
)
def test_a_row_stands_beside_only_if_what_it_starts_from_does(
    rows, changed, beside, changes, tmp_path
):
    predictions.write(paper(rows), tmp_path / "paper")
    runs = [run for row in rows for run in nested([row], **(changes if row == changed else {}))]
    predictions.write(runs, tmp_path / "nested")
    _, others = predictions.read_comparable(tmp_path, "paper")
    assert {run.row for run in others} == beside


def test_data_that_only_another_row_saw_do_not_count(tmp_path):
    other = {"data_sha256": "of other data"}
    predictions.write(paper(["video"]) + paper(["audio"], **other), tmp_path / "paper")
    predictions.write(nested(["video"], **other), tmp_path / "nested")
    assert predictions.read_comparable(tmp_path, "paper")[1] == []


def test_settings_of_digits_alone_are_no_number(tmp_path):
    predictions.write(paper(["audio"]), tmp_path / "paper")
    predictions.write(nested(["video", "audio"]), tmp_path / "nested")
    for path in tmp_path.glob("*/runs.csv"):
        table = pd.read_csv(path, dtype=str)
        table.loc[table["row"] == "audio", "settings"] = "012345678901"
        table.to_csv(path, index=False)
    _, others = predictions.read_comparable(tmp_path, "paper")
    assert {run.row for run in others} == {"audio"}


def test_a_protocol_that_is_not_there_says_how_to_make_it(tmp_path):
    predictions.write(paper(), tmp_path / "paper")
    with pytest.raises(InputError, match="nested; make it with `dvc repro`"):
        predictions.read_comparable(tmp_path, "nested")


@pytest.mark.parametrize("name", ["clips.csv.gz", "epochs.csv", "runs.csv"])
@pytest.mark.parametrize("content", [b"", b"no table", None])
def test_damaged_predictions_are_one_line_with_the_remedy(name, content, tmp_path):
    predictions.write(paper(["audio"])[:2], tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"is damaged .*; take it from git, or run `dvc repro`"):
        predictions.read(tmp_path)


@pytest.fixture
def project(tmp_path):
    """A repository with one run of audio, fold 2, on disk."""
    (tmp_path / "params.yaml").write_text(SETTINGS)
    run = trained(all_folds("audio", seeds=(1,))[1])
    folder = tmp_path / "runs/ravdess/paper/systems/fold_2/audio/seed_1"
    folder.mkdir(parents=True)
    keys = {"row": "audio", "fold": 2, "seed": 1}
    (folder / "run.json").write_text(json.dumps(run.info | keys))
    run.epochs.to_csv(folder / "epochs.csv", index=False)
    write_predictions(folder, "test", run.test)
    return tmp_path


def test_a_disk_that_takes_no_predictions_is_one_line(project, bad_disk):
    folder, answer = bad_disk
    (project / "figures").symlink_to(folder, target_is_directory=True)
    if answer.startswith("No space"):
        (folder / "filler").write_bytes(bytes(8 << 10))
    with pytest.raises(InputError, match=f"^{project}/figures.* cannot be written: {answer}"):
        predictions.keep(params.load(project / "params.yaml"), project)


def test_the_command_keeps_the_runs_and_never_imports_torch(project):
    program = (
        "import sys; from cfnsr.__main__ import main; "
        "sys.exit(main(['predictions']) or 'torch' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", program]
    printed = subprocess.check_output(command, cwd=project, env=environment, text=True)
    assert printed == "1 runs of 1 systems kept\n"
    (kept,) = predictions.read(project / "figures/ravdess/predictions/paper")
    assert (kept.row, kept.fold, kept.seed) == ("audio", 2, 1)


def test_without_runs_the_command_says_what_to_do(project, monkeypatch, capsys):
    (project / "params.yaml").write_text("data: ravdess\nfold: 3\n")
    monkeypatch.chdir(project)
    assert main(["predictions"]) == 1
    said = capsys.readouterr().err
    assert "train them with `dvc repro`" in said
    assert len(said.splitlines()) == 1


@cache
def committed(folder, protocol):
    """What is committed in figures/<data>, and its paired tests."""
    own, others = predictions.read_comparable(folder / "predictions", protocol)
    by_protocol = tables.by_protocol(own + others)
    return by_protocol, tables.paired_tests(by_protocol)


def derived(folder, protocol, rows, output):
    """A table as notebook 03 writes it, from what is committed in figures/<data>."""
    by_protocol, tests = committed(folder, protocol)
    settings = params.load(REPOSITORY / "params.yaml").model_copy(update={"data": folder.name})
    found = tables.table(rows, by_protocol)
    typeset.Printed(found, tests, tables.ceilings(settings), "").write(output)
    return output.with_suffix(".csv").read_text()


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
@pytest.mark.parametrize(("name", "rows"), [("table1", TABLE_1 | EXTRA), ("table2", TABLE_2)])
def test_committed_tables_follow_from_committed_predictions(folder, name, rows, tmp_path):
    protocols = sorted(path.name for path in (folder / "predictions").iterdir())
    kept = (folder / "tables" / f"{name}.csv").read_text()
    # Which protocol was the one in params.yaml when the table was made, the folder does not say.
    assert any(kept == derived(folder, each, rows, tmp_path / name) for each in protocols)


@pytest.mark.parametrize(("row", "join"), [("averaging", np.mean), ("multiplication", np.prod)])
def test_late_fusion_follows_from_what_git_keeps_of_the_encoders(row, join):
    runs = predictions.read(REPOSITORY / "figures/synthetic/predictions/paper")
    of = {name: {run.fold: run.test for run in runs if run.row == name} for name in ROWS}
    assert len(of[row]) == 5
    for fold, fused in of[row].items():
        parts = [softmax(of[name][fold].last_logits, axis=1) for name in ("video", "audio")]
        joined = join(parts, axis=0)
        joined /= joined.sum(axis=1, keepdims=True)
        np.testing.assert_array_equal(fused.predicted[0], joined.argmax(axis=1))
        np.testing.assert_allclose(fused.confidence[0], joined.max(axis=1), atol=0.0011)
