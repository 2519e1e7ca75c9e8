"""What networks that were trained on one corpus say of another: `python -m cfnsr transfer DATA`.

They are asked about the emotions that both corpora have: of all others the logits are not looked
at, and the clips left out. Nobody is tested whom they were trained on, or whose clips chose their
epoch.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from cfnsr import InputError
from cfnsr.data.corpora import Corpus
from cfnsr.evaluation.uncertainty import ratio
from cfnsr.models.registry import find, reported
from cfnsr.params import Params, draws_landmarks
from cfnsr.training.runs import read_info, run_folders


def decisions(logits: np.ndarray, knows: Corpus, index: pd.DataFrame) -> pd.DataFrame:
    """What a network says of the clips whose emotion it knows: clip, actor, emotion, predicted.

    Args:
        logits: (clip, emotion of the corpus `knows`), of all clips.
        index: of these clips, see `cfnsr.data.preprocess`; `emotion` by name.

    Raises:
        InputError: the network knows less than two of their emotions.
    """
    common = [emotion for emotion in knows.emotions if emotion in set(index["emotion"])]
    if len(common) < 2:
        raise InputError(
            f"{knows.name} has {len(common)} of these clips' emotions; a test needs two or more"
        )
    asked = logits[:, [knows.emotions.index(emotion) for emotion in common]]
    lines = index[["clip", "actor", "emotion"]].assign(
        predicted=np.array(common)[asked.argmax(axis=1)]
    )
    return lines[lines["emotion"].isin(common)]


def score(runs: list[pd.DataFrame]) -> dict[str, float | int | str]:
    """Of the `decisions` of a row's runs: accuracy with its 95 % interval over actors, and chance.

    Clips count alike, and each by its mean over the runs that were asked about it.
    """
    lines = pd.concat(runs)
    correct = lines["predicted"] == lines["emotion"]
    of_clips = correct.groupby([lines["actor"], lines["clip"]]).mean()
    actor = of_clips.index.get_level_values("actor")
    accuracy, low, high = ratio(of_clips, np.ones(len(of_clips)), actor)
    emotion = lines.drop_duplicates("clip")["emotion"]
    return {
        "emotions": " ".join(sorted(set(emotion))),
        "accuracy_pct": 100 * accuracy,
        "ci_low_pct": 100 * low,
        "ci_high_pct": 100 * high,
        "chance_pct": 100 * emotion.value_counts(normalize=True).max(),
        "n_clips": len(emotion),
        "n_actors": actor.nunique(),
        "n_runs": len(runs),
    }


def transfer(params: Params, tested: str, repository: Path) -> pd.DataFrame:
    """One line a row whose runs `params` asks for: row, label, trained_on, tested_on and a `score`.

    Args:
        tested: a data source, whose arrays must be there.

    Raises:
        InputError: no runs, no arrays, or arrays that were made with other settings.
    """
    runs = repository / "runs" / params.data / params.protocol
    arrays = repository / "build" / tested / "arrays"
    lines = []
    for row in reported(params.row, params.seeds):
        folders = [path for fold in params.folds for path in run_folders(runs, row, fold)]
        if folders and find(row).group != "hybrid":
            found = score(list(_runs(folders, arrays)))
            where = {"trained_on": params.data, "tested_on": tested}
            lines.append({"row": row, "label": find(row).label, **where, **found})
    if not lines:
        raise InputError(f"no runs in {runs}; train them with `dvc repro`")
    return pd.DataFrame(lines)


def _runs(folders: list[Path], arrays: Path) -> Iterator[pd.DataFrame]:
    from cfnsr.data.clips import load_clips  # loads torch, which scores need not
    from cfnsr.training.trained import load_trained

    clips = load_clips(arrays)
    settings = json.loads((arrays / "settings.json").read_text())
    for folder in folders:
        info = read_info(folder)
        wanted = {name: v for name, v in info["preprocess"].items() if name != "rejected"}
        of_same_kind = draws_landmarks(info["data"]) == draws_landmarks(settings["source"])
        if not of_same_kind or any(settings[name] != value for name, value in wanted.items()):
            raise InputError(
                f"{arrays} was made with other settings than the arrays that {folder} was trained "
                f"on; set {settings['source']}.preprocess of params.yaml as there, and preprocess "
                "again"
            )
        trained = load_trained(folder)
        known = {*info["actors"]["training"], *info["actors"].get("validation", ())}
        is_same = clips.corpus.name == trained.corpus.name
        tested = set(clips.index["actor"]) - (known if is_same else set())
        positions = clips.of_actors(tested)
        logits = trained.logits(trained.arrays(clips, positions))
        yield decisions(logits, trained.corpus, clips.index.iloc[positions])
