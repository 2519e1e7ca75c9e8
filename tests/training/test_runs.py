import json

import numpy as np
import pandas as pd
import pytest

from cfnsr import InputError
from cfnsr.training.runs import (
    Predictions,
    read_predictions,
    read_run,
    read_runs,
    run_folder,
    write_predictions,
)


def predictions(n_epochs=3, n_clips=4):
    logits = np.random.default_rng(1).normal(size=(n_epochs, n_clips, 8)).astype(np.float32)
    clips = [f"0{i + 1}-01-01-01-02" for i in range(n_clips)]
    table = pd.DataFrame({"clip": clips, "actor": 2, "emotion": range(n_clips), "extra": 0})
    return Predictions(logits, table)


INFO = {
    "row": "audio",
    "fold": 1,
    "seed": 1,
    "data": "synthetic",
    "protocol": "paper",
    "actors": {"training": [5, 6], "test": [1, 2]},
    "model": {"class": "mfcc_cnn.AudioOnly", "n_heads": 8},
    "schedule": {"n_epochs": 3, "batch_size": 16},
    "training": {"precision": "32-true"},
    "preprocess": {"n_frames": 6},
    "scaling": {"mfcc": {"mean": [0.0], "sd": [1]}},
    "versions": {"torch": "2.0"},
    "n_parameters": 1000,
    "forward_gflops": 0.25,
    "device": "cpu",
    "n_threads": 1,
    "data_sha256": "of the data",
    "pretrained_sha256": None,
    "weights_sha256": "of the weights",
}


def write_run(folder, *, validation=False, **changes):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(INFO | changes))
    (folder / "epochs.csv").write_text("epoch,train_loss,train_accuracy_pct\n1,2.0,12.5\n")
    for name in ("test", "validation") if validation else ("test",):
        write_predictions(folder, name, predictions())
    return folder


def test_predictions_are_read_back_as_they_were_written_but_for_half_precision(tmp_path):
    written = predictions()
    write_predictions(tmp_path, "test", written)
    read = read_predictions(tmp_path, "test")
    assert read.logits.dtype == np.float32
    np.testing.assert_array_equal(read.logits, written.logits.astype(np.float16))
    pd.testing.assert_frame_equal(read.clips, written.clips[["clip", "actor", "emotion"]])


def test_predicted_and_correct_are_the_hand_worked_ones():
    logits = np.zeros((2, 3, 8))
    logits[0, [0, 1, 2], [4, 4, 4]] = 1
    logits[1, [0, 1, 2], [4, 0, 7]] = 1
    found = Predictions(logits, pd.DataFrame({"emotion": [4, 0, 6]}))
    assert found.predicted.tolist() == [[4, 4, 4], [4, 0, 7]]
    assert found.correct.tolist() == [[True, False, False], [True, True, False]]


@pytest.mark.parametrize("validation", [False, True])
def test_a_run_is_read_with_its_validation_actors_if_it_has_some(tmp_path, validation):
    run = read_run(write_run(tmp_path / "seed_1", validation=validation))
    assert (run.row, run.fold, run.seed, run.n_epochs) == ("audio", 1, 1, 3)
    assert (run.validation is not None) == validation


@pytest.mark.parametrize("missing", ["run.json", "epochs.csv", "test_logits.npy", "test_clips.csv"])
def test_a_run_that_lacks_a_file_is_one_line_that_names_it(tmp_path, missing):
    folder = write_run(tmp_path / "seed_1")
    (folder / missing).unlink()
    with pytest.raises(InputError, match=f"holds no {missing}; expected a trained run"):
        read_run(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", ""),
        ("run.json", "{}"),
        ("run.json", "[]"),
        ("run.json", "3"),
        ("run.json", "[" * 100_000),
        ("epochs.csv", ""),
        ("test_logits.npy", ""),
        ("test_logits.npy", "no array"),
        ("test_clips.csv", ""),
    ],
)
def test_a_damaged_run_is_one_line_with_the_remedy(tmp_path, name, content):
    folder = write_run(tmp_path / "seed_1")
    (folder / name).write_text(content)
    with pytest.raises(InputError, match="is damaged; remove it and train again"):
        read_run(folder)


WRONG = [
    (name, value)
    for name, right in INFO.items()
    for value in ([], "1", {"a": {}}, 1.5)
    if not isinstance(value, str if right is None else type(right))
]


@pytest.mark.parametrize(("name", "value"), [*WRONG, ("scaling", {"mfcc": [0, 1]})])
def test_a_value_of_a_wrong_type_in_run_json_is_one_line(tmp_path, name, value):
    folder = write_run(tmp_path / "seed_1", **{name: value})
    with pytest.raises(InputError, match=r"is damaged; remove it and train again$"):
        read_run(folder)


def test_runs_come_in_row_fold_seed_order_and_what_is_not_there_is_passed_over(tmp_path):
    below = tmp_path / "runs" / "synthetic" / "paper"
    for row, fold, seed in [("mmtm", 1, 10), ("mmtm", 1, 9), ("audio", 2, 1), ("audio", 1, 1)]:
        write_run(run_folder(below, row, fold, seed), row=row, fold=fold, seed=seed)
    (run_folder(below, "mmtm", 1, 10).parent / "seed_10.part").mkdir()  # nobody's run
    rows = ["mmtm", "audio"]
    found = [(run.row, run.fold, run.seed) for run in read_runs(below, rows, range(1, 7))]
    assert found == [("mmtm", 1, 9), ("mmtm", 1, 10), ("audio", 1, 1), ("audio", 2, 1)]
