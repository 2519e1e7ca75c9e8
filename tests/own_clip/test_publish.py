"""Tests of `cfnsr.own_clip.publish`, and of the network that lies in the package."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import REPOSITORY, SMALL, alone, train_row

from cfnsr import InputError
from cfnsr.__main__ import main
from cfnsr.data import preprocess, sources
from cfnsr.data.clips import load_clips
from cfnsr.data.corpora.ravdess import EMOTIONS
from cfnsr.data.synthetic import recording
from cfnsr.data.synthetic.design import takes
from cfnsr.evaluation import predictions, scores
from cfnsr.own_clip import PUBLISHED, publish
from cfnsr.params import Clips, Model, Params, Schedule, SourceParams, Training
from cfnsr.training.runs import Decisions
from cfnsr.training.trained import load_trained

SCHEDULE = Schedule(n_epochs=1, batch_size=8)
PARAMS = Params(
    data="ravdess_landmarks",
    protocol="nested",
    seeds=publish.SEEDS,
    ravdess_landmarks=SourceParams(
        preprocess=SMALL, model=Model(audio_channels=8), training=Training(ours=SCHEDULE)
    ),
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Arrays of an actor who tests fold 1, one who chooses its epoch and two who train it."""
    folder = tmp_path_factory.mktemp("repository")
    for take in takes(Clips()):
        few = take.actor == 1 or take.emotion <= 2
        if take.actor in (1, 6, 9, 10) and take.intensity == 1 and few:
            recording.write_clip(folder / "clips", take, Clips())
    manifest = sources.manifest(folder / "clips", Params(data="synthetic"))
    arrays = folder / "build/ravdess_landmarks/arrays"
    with alone():
        preprocess.preprocess(manifest, folder / "clips", arrays, PARAMS, SMALL, folder / "scratch")
    return folder


@pytest.fixture(scope="module")
def tested(repository):
    """Its predictions of unseen actors, as the pipeline keeps them."""
    clips = load_clips(repository / "build/ravdess_landmarks/arrays")
    runs = [
        run
        for row in ("motion_voice", publish.ROW)
        for run in train_row(row, 1, PARAMS, clips, repository / "runs")
    ]
    predictions.write(runs, repository / "figures/ravdess_landmarks/predictions/nested")


@pytest.fixture(scope="module")
def network(repository, tested):
    """The folder of a network published from them."""
    with pytest.MonkeyPatch.context() as patched, alone():
        patched.setattr(publish, "PUBLISHED", repository / "network")
        return publish.publish(Params(ravdess_landmarks=PARAMS.ravdess_landmarks), repository)


def test_the_published_network_averages_three_that_all_actors_have_trained(network, repository):
    trained = load_trained(network)
    # Of the accuracy that is published with it, whatever params.yaml asks for.
    assert trained.info["protocol"] == publish.PROTOCOL != Params().protocol
    assert trained.info["actors"] == {
        "training": [1, 6, 9, 10],
        "validation": [],
        "test": [],
    }
    clips = load_clips(repository / "build/ravdess_landmarks/arrays")
    arrays = trained.arrays(clips, np.arange(3))
    members = repository / "build/published/motion_voice"
    probabilities = [
        np.exp(load_trained(members / f"seed_{seed}").logits(arrays)) for seed in publish.SEEDS
    ]
    probabilities = [each / each.sum(axis=1, keepdims=True) for each in probabilities]
    np.testing.assert_allclose(
        np.exp(trained.logits(arrays)), np.mean(probabilities, axis=0), rtol=1e-4
    )


def test_its_card_counts_the_clips_of_unseen_actors(network):
    card = (network / "README.md").read_text()
    assert "On 8 takes of actors who were not in the training" in card
    by_emotion = re.findall(rf"\| ({'|'.join(EMOTIONS)}) \| .* \| (\d+) \|", card)
    assert by_emotion == [(emotion, "1") for emotion in EMOTIONS]
    assert re.search(r"\| of men \| [\d.]+ \[nan, nan\] \| 8 \|", card)  # of one actor
    assert "$" not in card


def test_without_predictions_of_unseen_actors_nothing_is_published(repository, tmp_path):
    with pytest.raises(InputError, match=r"predictions.* from git"):
        publish.publish(PARAMS, tmp_path)


def test_the_card_in_the_package_follows_from_the_predictions_in_git(tmp_path, monkeypatch):
    shutil.copy(PUBLISHED / "run.json", tmp_path)
    monkeypatch.setattr(publish, "PUBLISHED", tmp_path)
    monkeypatch.chdir(REPOSITORY)
    assert main(["publish", "--card"]) == 0
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert written == {
        name: (PUBLISHED / name).read_bytes()
        for name in ("README.md", "confidence.csv", "run.json")
    }


def test_women_and_men_have_intervals_over_their_own_actors():
    folder = REPOSITORY / "figures/ravdess_landmarks/predictions/nested"
    tested = [run for run in predictions.read(folder) if run.row == publish.ROW]
    women = [
        replace(run, test=only(run.test, run.test.clips["actor"] % 2 == 0), validation=None)
        for run in tested
    ]
    alone = scores.score(women, publish.RULE)
    card = (PUBLISHED / "README.md").read_text()
    expected = f"{alone.accuracy_pct:.1f} [{alone.ci_low_pct:.1f}, {alone.ci_high_pct:.1f}]"
    assert f"| of women | {expected} | 720 |" in card


def only(test, chosen):
    """The decisions on some of a run's test clips."""
    kept = chosen.to_numpy()
    return Decisions(
        test.predicted[:, kept], test.confidence[:, kept], test.clips[kept].reset_index(drop=True)
    )


def test_the_network_in_the_package_is_small_and_was_trained_with_the_same_bits():
    size = sum(path.stat().st_size for path in PUBLISHED.iterdir())
    assert size < 5_000_000
    info = json.loads((PUBLISHED / "run.json").read_text())
    assert info["training"]["same_bits"]
    assert info["row"] == publish.ROW
