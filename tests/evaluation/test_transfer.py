from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from conftest import SMALL, alone, train_row
from test_corpora import imitated  # noqa: F401  a fixture

from cfnsr import InputError
from cfnsr.data import preprocess, sources
from cfnsr.data.clips import load_clips
from cfnsr.data.corpora import CORPORA
from cfnsr.data.synthetic import design
from cfnsr.data.synthetic.design import takes
from cfnsr.evaluation.transfer import decisions, score, transfer
from cfnsr.params import Clips

EVERY_TAKE = {"n_statements": 2, "n_repetitions": 2}


@dataclass
class Named:
    """As much of a corpus as a network's logits need."""

    name: str
    emotions: tuple[str, ...]


def index_of(clips):
    emotions = CORPORA[clips.corpus].emotions
    lines = [(take.clip, take.actor, emotions[take.emotion_index]) for take in takes(clips)]
    return pd.DataFrame(lines, columns=["clip", "actor", "emotion"])


def best_logits(known, clips, modality):
    """Of the best rule for `known`, for each clip of `clips`."""
    joint = design._joint(known)[modality]
    shown = list(dict.fromkeys([*CORPORA[clips.corpus].emotions, *design.FACE_PARTNER]))
    cues = [design.cue(take, clips) for take in takes(clips)]
    places = {
        "video": lambda cue: (shown.index(cue.upper),),
        "audio": lambda cue: (shown.index(cue.voice),),
        "audio_video": lambda cue: (shown.index(cue.upper), shown.index(cue.voice)),
    }[modality]
    return np.array([joint[(slice(None), *places(cue))] for cue in cues])


@pytest.mark.parametrize("modality", ["video", "audio", "audio_video"])
@pytest.mark.parametrize("corpus", ["ravdess", "cremad"])
def test_between_two_controls_the_best_rule_scores_its_closed_form_expectation(corpus, modality):
    known = Clips(corpus=corpus, face_reliability=0.8, voice_reliability=0.6, **EVERY_TAKE)
    clips = Clips(corpus=corpus, face_reliability=0.4, voice_reliability=0.9, **EVERY_TAKE)
    lines = decisions(best_logits(known, clips, modality), CORPORA[corpus], index_of(clips))
    found = score([lines])
    joint = design._joint(clips)[modality]
    most_probable = design._joint(known)[modality].argmax(axis=0)
    expected = 100 * np.take_along_axis(joint, most_probable[None], axis=0).sum()
    assert expected < design.ceilings(clips)[modality] + 1e-9
    assert found["accuracy_pct"] == pytest.approx(expected, abs=2)
    assert found["ci_low_pct"] <= found["accuracy_pct"] <= found["ci_high_pct"]


def test_only_emotions_in_common_are_asked_about():
    index = index_of(Clips(corpus="cremad"))
    network = Named("another", ("happy", "bored", "sad", "neutral"))
    logits = np.tile([1.0, 9.0, 3.0, 2.0], (len(index), 1))
    lines = decisions(logits, network, index)
    assert set(lines["emotion"]) == {"happy", "sad", "neutral"}
    assert set(lines["predicted"]) == {"sad"}  # bored is not among the clips
    found = score([lines])
    assert found["emotions"] == "happy neutral sad"
    assert found["accuracy_pct"] == pytest.approx(100 * 3 / 7)  # levels: three, and one of neutral
    assert found["chance_pct"] == pytest.approx(100 * 3 / 7)
    with pytest.raises(InputError, match="has 1 of these clips' emotions"):
        decisions(logits[:, :2], Named("a third", ("happy", "bored")), index)


def test_runs_are_asked_about_the_people_that_they_do_not_know(imitated, tmp_path):  # noqa: F811
    for name in ("rml", "cremad"):
        root, params = imitated(name)
        arrays = tmp_path / "build" / name / "arrays"
        manifest = sources.manifest(root, params)
        with alone():
            preprocess.preprocess(manifest, root, arrays, params, SMALL, tmp_path / "scratch")
    asked = params.model_copy(update={"row": "audio"})
    clips = load_clips(tmp_path / "build" / "cremad" / "arrays")
    train_row("audio", 1, asked, clips, tmp_path / "runs" / "synthetic" / "nested")
    (line,) = transfer(asked, "rml", tmp_path).to_dict("records")
    assert " ".join(line) == (
        "row label trained_on tested_on emotions accuracy_pct ci_low_pct ci_high_pct chance_pct "
        "n_clips n_actors n_runs"
    )
    assert line["emotions"] == "angry disgust fearful happy sad"
    assert (line["n_clips"], line["n_actors"], line["n_runs"]) == (15, 3, 1)
    assert line["chance_pct"] == 20
    (own,) = transfer(asked, "cremad", tmp_path).to_dict("records")
    assert (own["n_clips"], own["n_actors"]) == (6, 1)
    with pytest.raises(InputError, match="no runs in"):
        transfer(asked.model_copy(update={"protocol": "paper"}), "rml", tmp_path)
