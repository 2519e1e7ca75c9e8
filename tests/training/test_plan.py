import itertools
import json
import shutil

import grimp
import pytest

from cfnsr.errors import InputError
from cfnsr.models.registry import ENCODERS, ROWS
from cfnsr.params import Params, Schedule, SyntheticParams, Training
from cfnsr.training import source_code
from cfnsr.training.plan import rows_to_run, write_plan

TRAINED = {name for name, row in ROWS.items() if row.alias is None}


SEVERAL = {name for name in TRAINED if ROWS[name].n_members > 1}


def written_plan(folder, **chosen):
    write_plan(Params(**chosen), folder)
    return {path.stem: json.loads(path.read_text()) for path in folder.iterdir()}


def runs(entries):
    return {name for name, entry in entries.items() if entry["run"]}


def test_every_row_and_fold_has_a_file_whatever_runs(tmp_path):
    expected = {f"{name}-{fold}" for name in TRAINED for fold in range(1, 7)}
    assert set(written_plan(tmp_path / "all")) == expected
    assert set(written_plan(tmp_path / "one", row="audio", fold=2)) == expected


def test_all_rows_run_on_the_protocols_folds(tmp_path):
    paper = runs(written_plan(tmp_path / "paper"))
    assert paper == {f"{name}-{fold}" for name in TRAINED - SEVERAL for fold in range(1, 6)}
    nested = runs(written_plan(tmp_path / "nested", protocol="nested"))
    assert nested == {f"{name}-{fold}" for name in TRAINED - SEVERAL for fold in range(1, 7)}


def test_a_fusion_row_brings_its_fold_of_both_encoders(tmp_path):
    assert runs(written_plan(tmp_path, row="cfn_sr", fold=4)) == {"cfn_sr-4", "video-4", "audio-4"}


def test_an_encoder_runs_alone(tmp_path):
    assert runs(written_plan(tmp_path, row="audio", fold=1)) == {"audio-1"}


def test_an_alias_runs_the_row_that_it_stands_for():
    for name, row in ROWS.items():
        if row.alias is not None:
            assert rows_to_run(Params(row=name)) == [*ENCODERS, row.alias]


def test_a_row_of_several_networks_runs_where_there_are_as_many_seeds():
    assert {"motion_voice_averaged"} == SEVERAL
    assert set(rows_to_run(Params(seeds=(1, 2, 3)))) == TRAINED
    assert rows_to_run(Params(row="motion_voice_averaged", seeds=(1, 2, 3))) == [
        "motion_voice",
        "motion_voice_averaged",
    ]
    assert not SEVERAL & set(rows_to_run(Params(seeds=(1, 2))))
    with pytest.raises(InputError, match=r"takes 3 seeds, but seeds is \[1, 2\]; add others"):
        rows_to_run(Params(row="motion_voice_averaged", seeds=(1, 2)))


def test_a_misspelt_row_is_one_line_that_lists_all(tmp_path):
    with pytest.raises(InputError, match=r"row: expected all or one of video, audio.*found cfnsr"):
        write_plan(Params(row="cfnsr"), tmp_path / "plan")
    assert not (tmp_path / "plan").exists()


def test_another_fold_changes_only_the_files_of_the_two_folds(tmp_path):
    before = written_plan(tmp_path, row="audio", fold=1)
    after = written_plan(tmp_path, row="audio", fold=2)
    assert {name for name in before if before[name] != after[name]} == {"audio-1", "audio-2"}


@pytest.fixture
def copied_package(tmp_path, monkeypatch):
    package = tmp_path / "cfnsr"
    shutil.copytree(source_code.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(source_code, "PACKAGE", package)
    return package


@pytest.mark.parametrize(
    ("edited", "concerned", "others"),
    [
        ("models/mfcc_cnn.py", {"audio-1", "cfn_sr-1"}, {"video-1", "erann-2", "cfn_sr-6"}),
        ("models/msaf.py", {"msaf-1"}, {"mmtm-1", "cfn_sr-1", "video-1"}),
        ("summary.py", {"linear-1"}, {"cfn_sr-1", "video-1", "erann-1"}),
        ("training.py", {"linear-1", "cfn_sr-1", "video-5"}, {"video-6"}),
        ("models/registry.py", set(), {"cfn_sr-1", "video-1"}),
        ("figures.py", set(), {"cfn_sr-1", "video-1"}),
    ],
)
def test_an_edited_file_changes_only_the_runs_that_use_it(
    tmp_path, copied_package, edited, concerned, others
):
    before = written_plan(tmp_path / "plan")
    with (copied_package / edited).open("a") as file:
        file.write("# edited\n")
    after = written_plan(tmp_path / "plan")
    changed = {name for name in before if before[name] != after[name]}
    assert concerned <= changed
    assert not changed & others


@pytest.mark.parametrize(
    ("change", "concerned", "others"),
    [
        ({"audio": Schedule(n_epochs=3)}, {"audio-1"}, {"video-1", "cfn_sr-1", "linear-1"}),
        ({"erann": Schedule(n_epochs=3)}, {"erann-1"}, {"audio-1", "cfn_sr-1"}),
        ({"fusion": Schedule(n_epochs=3)}, {"cfn_sr-1", "mcbp-2"}, {"audio-1", "erann-1"}),
        ({"standardise_mfcc": False}, {"cfn_sr-1", "audio-1"}, {"audio-6"}),
    ],
)
def test_a_changed_schedule_changes_only_the_runs_that_follow_it(
    tmp_path, change, concerned, others
):
    params = Params()
    training = params.synthetic.training.model_copy(update=change)
    changed_params = params.model_copy(
        update={"synthetic": params.synthetic.model_copy(update={"training": training})}
    )
    write_plan(params, tmp_path / "before")
    write_plan(changed_params, tmp_path / "after")
    changed = {
        path.stem
        for path in (tmp_path / "before").iterdir()
        if path.read_bytes() != (tmp_path / "after" / path.name).read_bytes()
    }
    assert concerned <= changed
    assert not changed & others


def test_another_checkpoint_to_start_from_changes_only_the_video_encoder(tmp_path):
    path = tmp_path / "resnext.pth"
    plans = []
    for content in (b"one", b"another"):
        path.write_bytes(content)
        source = SyntheticParams(training=Training(pretrained=path))
        plans.append(written_plan(tmp_path / "plan", synthetic=source))
    plans.append(written_plan(tmp_path / "plan"))
    for one, other in itertools.combinations(plans, 2):
        assert {name for name in one if one[name] != other[name]} == {
            f"video-{fold}" for fold in range(1, 6)
        }


def test_a_rows_code_is_every_module_of_models_that_its_module_imports():
    graph = grimp.build_graph("cfnsr", cache_dir=None, exclude_type_checking_imports=True)
    for row in ROWS.values():
        module = f"cfnsr.models.{row.model.split('.')[0]}"
        imported = {module, *graph.find_upstream_modules(module)}
        assert set(source_code.hashes(row.model)) == set(source_code.SHARED) | {
            name.removeprefix("cfnsr.").replace(".", "/")
            for name in imported
            if name.startswith(("cfnsr.models.", "cfnsr.data.summary", "cfnsr.data.motion"))
        }
