import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_predictions import COMMITTED, paper, trained

from cfnsr import InputError
from cfnsr.__main__ import main
from cfnsr.data.corpora.ravdess import CORPUS, EMOTIONS
from cfnsr.evaluation import predictions, reproduction, seed_noise
from cfnsr.evaluation.reproduction import ALL_SYSTEMS, VERDICTS, compare
from cfnsr.training.runs import Decisions, Run

REPOSITORY = Path(__file__).parents[2]
SAME_BITS, SAME_DECISIONS, WITHIN, NOT_REPRODUCED = VERDICTS
N_SIMULATED = 200
#: More of 200 are flagged at 5 % in less than one of a hundred simulations.
MOST_FALSE_ALARMS = 17


def system(rng, n_per_actor=15, accuracy=0.65):
    """How far each clip of 20 actors is from being mistaken, and what it is mistaken for."""
    actor = np.concatenate(
        [np.repeat(CORPUS.groups[fold - 1], n_per_actor) for fold in range(1, 6)]
    )
    emotion = np.arange(len(actor)) % len(EMOTIONS)
    margin = rng.normal(size=len(actor)) + rng.normal(0, 0.3, 25)[actor]
    margin -= np.quantile(margin, 1 - accuracy)
    wrong = (emotion + rng.integers(1, 8, len(actor))) % len(EMOTIONS)
    clips = pd.DataFrame({"actor": actor, "emotion": emotion})
    clips["clip"] = [f"{k:04d}" for k in range(len(actor))]
    fold_of = {actor: fold for fold in range(1, 6) for actor in CORPUS.groups[fold - 1]}
    return clips.assign(margin=margin, wrong=wrong, fold=clips["actor"].map(fold_of))


def trained_once(rng, clips, lost=0.0):
    """What one seed decides; it has a leaning of its own to each emotion, as networks have.

    `lost` is the share of clips that are named at random.
    """
    leaning = rng.normal(0, 0.2, (6, len(EMOTIONS)))[clips["fold"], clips["emotion"]]
    is_right = clips["margin"] + leaning + rng.normal(0, 0.5, len(clips)) > 0
    elsewhere = rng.random(len(clips)) < 0.3  # another mistake than the usual one
    mistake = np.where(elsewhere, (clips["emotion"] + 1) % 8, clips["wrong"])
    decided = np.where(is_right, clips["emotion"], mistake)
    is_lost = rng.random(len(clips)) < lost
    return np.where(is_lost, rng.integers(0, 8, len(clips)), decided)


def flagged(here, published, clips):
    lines = clips.assign(
        seed=1,
        predicted_here=here,
        predicted_published=published,
        correct_here=here == clips["emotion"],
        correct_published=published == clips["emotion"],
    )
    found = seed_noise.another_seed(lines, correlation=0.05, agreement=0.18)
    return found["reason"] if found["p_value"] < 0.05 else None


def simulated(change, n=N_SIMULATED, **options):
    """The reasons for which reproductions are flagged; None where they are not."""
    reasons = []
    for k in range(n):
        rng = np.random.default_rng(k)
        clips = system(rng, **options)
        reasons.append(flagged(change(rng, clips), trained_once(rng, clips), clips))
    return reasons


@pytest.mark.parametrize("accuracy", [0.5, 0.65, 0.92])
def test_another_seed_is_rarely_flagged(accuracy):
    reasons = simulated(trained_once, accuracy=accuracy)
    assert sum(map(bool, reasons)) <= MOST_FALSE_ALARMS


def test_a_system_that_lost_more_than_ten_points_is_flagged():
    # 0.25 of 0.65, less what chance gives back: 13 points
    reasons = simulated(lambda rng, clips: trained_once(rng, clips, lost=0.25), n=50)
    assert sum(map(bool, reasons)) > 0.8 * 50


def test_a_leaked_test_actor_raises_the_accuracy_and_is_flagged_by_name():
    def leaked(rng, clips):
        return np.where(clips["actor"] == 7, clips["emotion"], trained_once(rng, clips))

    reasons = simulated(leaked, n=50, n_per_actor=60)
    assert sum(reason == "actor 7" for reason in reasons) > 40


def test_a_system_of_equal_accuracy_with_errors_of_its_own_is_flagged_by_its_agreement():
    def another_system(rng, clips):
        own = clips.assign(margin=rng.permutation(clips["margin"]))
        return trained_once(rng, own.assign(wrong=system(rng, 60)["wrong"]))

    reasons = simulated(another_system, n=50, n_per_actor=60)
    assert sum(reason == "agreement" for reason in reasons) > 40


@pytest.mark.parametrize("data", COMMITTED, ids=lambda folder: folder.name)
def test_shuffled_decisions_of_committed_rows_are_flagged(data):
    folder = next((data / "predictions").iterdir())  # of either protocol
    there = [run for run in predictions.read(folder) if run.row == "cfn_sr"]
    rng = np.random.default_rng(0)
    here = [with_decisions(run, rng.permuted(run.test.predicted, axis=1)) for run in there]
    assert set(compare(here, there).lines["verdict"]) == {NOT_REPRODUCED}


def kept(tmp_path, runs, name="published"):
    predictions.write(runs, tmp_path / name)
    return predictions.read(tmp_path / name)


def with_decisions(run, predicted):
    return replace(run, test=Decisions(predicted, run.test.confidence, run.test.clips))


def verdicts(found):
    return {(line.row, line.rule): line.verdict for line in found.lines.itertuples()}


def test_equal_predictions_are_the_same_bits_under_every_rule_that_applies(tmp_path):
    runs = kept(tmp_path, paper())
    found = compare(runs, kept(tmp_path, paper(), "here"))
    assert set(found.lines["verdict"]) == {SAME_BITS}
    assert len(found.lines) == 2 * 3
    assert found.reproduced
    assert reproduction.summary(found) == "2 of 2 rows same bits"


def test_another_loss_or_confidence_leaves_the_decisions_the_same(tmp_path):
    there = kept(tmp_path, paper())
    here = list(there)
    here[0] = replace(here[0], epochs=here[0].epochs.assign(train_loss=0.5))
    confidence = there[-1].test.confidence * 0.99
    here[-1] = replace(there[-1], test=replace(there[-1].test, confidence=confidence))
    assert set(compare(here, there).lines["verdict"]) == {SAME_DECISIONS}


def test_decisions_are_compared_under_each_rule_on_its_own(tmp_path):
    there = kept(tmp_path, paper(("cfn_sr",)))
    run = there[0]
    predicted = run.test.predicted.copy()
    right = run.test.correct[-1].argmax()
    predicted[-1, right] = (predicted[-1, right] + 1) % 8  # the last epoch is not the best
    assert run.test.accuracy_pct.argmax() != run.n_epochs - 1
    found = compare([with_decisions(run, predicted), *there[1:]], there)
    assert verdicts(found)["cfn_sr", "best test epoch"] == SAME_DECISIONS
    assert verdicts(found)["cfn_sr", "last epoch"] == WITHIN
    last = found.lines[found.lines["rule"] == "last epoch"].iloc[0]
    n_clips = sum(len(run.test.clips) for run in there)
    assert last["difference_pct"] == pytest.approx(-100 / n_clips)
    assert last["equal_pct"] == pytest.approx(100 - 100 / n_clips)
    assert last["here_pct"] - last["published_pct"] == pytest.approx(last["difference_pct"])


NO_EPOCHS = pd.DataFrame()
ROWS = ("video", "audio", "mmtm", "msaf", "cfn_sr", "no_residual")


def surer(rng, clips, leaked=()):
    """Runs of one seed: rows share a part of what the seed changes, through their encoders."""
    odds = clips["margin"].to_numpy() + 2 * clips["actor"].isin(leaked).to_numpy()
    of_actors = {row: rng.normal(0, 0.25, 25) for row in ("shared", *ROWS)}
    of_folds = [
        (fold, lines.index, lines[["clip", "actor", "emotion"]].reset_index(drop=True))
        for fold, lines in clips.groupby("fold")
    ]
    runs = []
    for row in ROWS:
        change = (0.5 * of_actors["shared"] + of_actors[row])[clips["actor"]]
        confidence = 1 / (1 + np.exp(-(odds + change + rng.normal(0, 0.5, len(clips)))))
        decided = trained_once(rng, clips)
        for fold, at, test in of_folds:
            said = Decisions(decided[None, at], confidence[None, at], test)
            runs.append(Run(row, fold, 1, {}, NO_EPOCHS, said, None))
    return runs


@pytest.mark.parametrize("leaked", [(7,), (1, 5, 9, 13, 17)], ids=["one", "one a fold"])
def test_leaked_actors_of_whom_all_rows_are_surer_show_over_all_systems(leaked):
    rng = np.random.default_rng(1)
    clips = system(rng)
    published, here = ([*map(trained, surer(rng, clips, who))] for who in ((), leaked))
    found = compare(here, published)
    (line,) = found.lines[found.lines["row"] == ALL_SYSTEMS].to_dict("records")
    assert line["verdict"] == NOT_REPRODUCED
    assert set(line["reason"].removeprefix("actors ").split(", ")) == set(map(str, leaked))
    assert "all systems together not reproduced" in reproduction.summary(found)


def test_another_seed_of_all_systems_is_rarely_flagged():
    def p_value(k):
        rng = np.random.default_rng(k)
        clips = system(rng)
        sides = list(zip(surer(rng, clips), surer(rng, clips), strict=True))
        pairs = {row: [pair for pair in sides if pair[0].row == row] for row in ROWS}
        return seed_noise.surer_actors(seed_noise.confidence_changes(pairs))[1]

    assert sum(p_value(k) < 0.05 for k in range(25)) <= 2


def test_folds_of_one_actor_say_nothing_of_leaks():
    rng = np.random.default_rng(0)
    clips = system(rng)
    clips = clips[clips["actor"].isin([1, 5, 9, 13, 17])].reset_index(drop=True)
    here, published = ([*map(trained, surer(rng, clips, who))] for who in ((1,), ()))
    found = compare(here, published)
    assert ALL_SYSTEMS not in set(found.lines["row"])


def test_runs_that_one_side_lacks_are_listed_and_not_compared(tmp_path):
    there = kept(tmp_path, paper(("audio", "cfn_sr", "mmtm")))
    here = [run for run in there if run.row != "mmtm" and (run.fold, run.seed) != (2, 1)]
    found = compare(here, [run for run in there if run.row != "audio"])
    assert found.only_here == ["audio"]
    assert found.only_published == ["mmtm", "cfn_sr (fold 2 seed 1)"]
    assert set(found.lines["row"]) == {"cfn_sr"}
    assert set(found.lines["verdict"]) == {SAME_BITS}


def test_seeds_that_only_one_side_has_are_paired_within_the_fold(tmp_path):
    there = [run for run in kept(tmp_path, paper(("audio",))) if run.seed == 1]
    found = compare([replace(run, seed=9) for run in there], there)
    assert set(found.lines["verdict"]) == {SAME_BITS}
    assert "fold 1 seed 9" in found.only_here[0]


def test_nothing_in_common_is_bad_input(tmp_path):
    with pytest.raises(InputError, match="in common"):
        compare(kept(tmp_path, paper(("audio",))), kept(tmp_path, paper(("cfn_sr",))))


def test_a_changed_claim_and_what_may_explain_it_are_told(tmp_path):
    there = kept(tmp_path, paper(("audio", "cfn_sr")))
    truth = [np.tile(run.test.clips["emotion"], (run.n_epochs, 1)) for run in there]
    here = [
        replace(with_decisions(run, right) if run.row == "audio" else run, info=run.info | new)
        for run, right in zip(there, truth, strict=True)
        for new in [{"torch": "9.9", "same_bits": True}]
    ]
    found = compare(here, there)
    assert {"row": "audio", "rule": "last epoch", "published": 0, "here": 1} in (
        found.claims.to_dict("records")
    )
    assert found.explanations == [
        "torch: published 2.0; here 9.9",
        "same_bits: published False; here True",
    ]
    text = reproduction.report(found)
    assert "audio, last epoch: published neither, here better" in text
    assert not found.reproduced


@pytest.fixture
def project(tmp_path):
    """A repository whose first revision holds predictions of the control."""
    (tmp_path / "params.yaml").write_text("data: synthetic\nprotocol: paper\n")
    predictions.write(paper(), tmp_path / "figures/synthetic/predictions/paper")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "published"]):
        user = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *user, *arguments], cwd=tmp_path, check=True)
    return tmp_path


def test_the_command_compares_with_a_revision_and_its_status_says_whether_it_agrees(
    project, monkeypatch, capsys
):
    monkeypatch.chdir(project)
    assert main(["compare"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "figures/synthetic, paper, against HEAD: 2 of 2 rows same bits"
    )
    broken = [with_decisions(run, 0 * run.test.predicted) for run in paper()]
    kept = [
        replace(run, test=replace(run.test, confidence=old.test.confidence))
        for run, old in zip(broken, paper(), strict=True)
    ]
    predictions.write(kept, project / "figures/synthetic/predictions/paper")
    assert main(["compare", "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert not told["reproduced"]
    assert NOT_REPRODUCED in {line["verdict"] for line in told["lines"]}


def test_the_command_compares_with_a_folder_and_never_imports_torch(project):
    program = (
        "import sys; from cfnsr.__main__ import main; "
        "sys.exit(main(['compare', '--all', '--against', sys.argv[1]]) or 'torch' in sys.modules)"
    )
    folder = "figures/synthetic/predictions/paper"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    run = [sys.executable, "-c", program, folder]
    subprocess.run(run, cwd=project, env=environment, check=True)


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["no_such_revision"], "git log --oneline"),
        (["--against", "nowhere"], "dvc repro"),
        (["--data", "ravdess"], "--data or --protocol"),
    ],
)
def test_what_is_not_there_is_one_line_that_says_what_to_do(
    project, arguments, remedy, monkeypatch, capfd
):
    monkeypatch.chdir(project)
    assert main(["compare", *arguments]) == 1
    said = capfd.readouterr().err
    assert said.startswith("error: ")
    assert remedy in said
    assert len(said.splitlines()) == 1


def test_a_revision_without_predictions_is_one_line_too(project, monkeypatch, capfd):
    monkeypatch.chdir(project)
    (project / "figures/synthetic/predictions/paper").rename(
        project / "figures/synthetic/predictions/nested"
    )
    assert main(["compare", "--protocol", "nested"]) == 1
    said = capfd.readouterr().err
    assert "git log --oneline -- figures/synthetic/predictions/nested" in said
