"""The network that comes with the package: trained on all actors and kept in git, with its card.

    python -m cfnsr publish [--card]

writes cfnsr/own_clip/network/:

    weights.safetensors  its weights
    run.json             as of any run; nobody is left to test it
    confidence.csv       how often a network of the same row was right on actors whom it had not
                         been trained on, by its confidence; from the predictions in figures/
    README.md            its card

With --card only the last two are written, and nothing is trained.
"""

import json
from functools import partial
from pathlib import Path
from string import Template

import numpy as np
import pandas as pd
from pooch import file_hash
from safetensors.torch import save_file

from cfnsr import InputError, cluster
from cfnsr.data import preprocess, sources
from cfnsr.data.clips import load_clips
from cfnsr.data.corpora import Split
from cfnsr.evaluation import predictions, scores
from cfnsr.evaluation.selection import Rule
from cfnsr.evaluation.uncertainty import actor_interval
from cfnsr.models.registry import asked_for, find
from cfnsr.own_clip import PUBLISHED
from cfnsr.params import Params, Source
from cfnsr.training.experiment import Experiment, predecessors, read_tensors
from cfnsr.training.grid import arrays_folder
from cfnsr.training.runs import Run
from cfnsr.training.train import train

#: The best row that needs nothing but landmarks and sound.
ROW = "motion_voice_averaged"
DATA: Source = "ravdess_landmarks"
SEEDS = (1234, 1235, 1236)
#: Where its honest accuracy comes from.
PROTOCOL = "nested"
RULE: Rule = "last epoch"
#: Between these confidences accuracy is given.
EDGES = (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_CARD = Path(__file__).with_name("card.md")


class _OfAllActors(Experiment):
    """It is tested on nobody."""

    @property
    def split(self) -> Split:
        return Split(self.params.corpus.people, (), ())


def publish(params: Params, repository: Path) -> Path:
    """Train the row on all actors and write the published network; its folder.

    Args:
        params: of which the section of the data counts.

    Raises:
        InputError: the data, or the predictions that its accuracy follows from, are not there.
    """
    _tested(repository)  # before anything is trained
    params = params.model_copy(update={"data": DATA, "protocol": PROTOCOL, "seeds": SEEDS})
    _preprocess(params, repository)
    for row in asked_for(ROW, SEEDS):
        runs = [(row, seed) for seed in find(row).seeds(SEEDS)]
        train_one = partial(_train, params=params, repository=repository)
        for _, error in cluster.finished(train_one, runs):
            if error is not None:
                raise error
    _write(_folder(ROW, 0, repository))
    return write_card(repository)


def write_card(repository: Path) -> Path:
    """Write the card of the network that is there, and `confidence.csv`; the network's folder.

    Raises:
        InputError: the predictions that they follow from are not there.
    """
    tested = _tested(repository)
    n_parameters = json.loads((PUBLISHED / "run.json").read_text())["n_parameters"]
    confidence = by_confidence(tested)
    confidence.to_csv(
        PUBLISHED / "confidence.csv",
        columns=["high", "accuracy_pct", "n_clips"],
        index_label="low",
        float_format="%.4g",
        lineterminator="\n",
    )
    (PUBLISHED / "README.md").write_text(card(n_parameters, tested, confidence), "utf-8")
    return PUBLISHED


def _tested(repository: Path) -> list[Run]:
    kept = predictions.read(repository / "figures" / DATA / "predictions" / PROTOCOL)
    runs = [run for run in kept if run.row == ROW]
    if not runs:
        raise InputError(
            f"figures/{DATA} has no predictions of {ROW} under protocol {PROTOCOL}, so its "
            "accuracy on unseen actors is not known; take them from git"
        )
    return runs


def _preprocess(params: Params, repository: Path) -> None:
    arrays = arrays_folder(ROW, params, repository)
    settings = params.source.preprocess
    if not preprocess.is_made_with(arrays, params, settings):
        root = sources.provide(params, repository)
        scratch = repository / "build" / "scratch" / "preprocess"
        manifest = sources.manifest(root, params)
        preprocess.preprocess(manifest, root, arrays, params, settings, scratch)


def _train(run: tuple[str, int], params: Params, repository: Path) -> None:
    row, seed = run
    starts_from = {
        module: _folder(*before, repository) / "weights.pt"
        for module, before in predecessors(row, seed, SEEDS).items()
    }
    clips = load_clips(arrays_folder(row, params, repository))
    experiment = _OfAllActors(row, 0, seed, params, clips, starts_from)
    train(experiment, _folder(row, seed, repository), repository / "build" / "scratch" / "train")


def _folder(row: str, seed: int, repository: Path) -> Path:
    return repository / "build" / "published" / row / f"seed_{seed}"


def _write(run: Path) -> None:
    PUBLISHED.mkdir(exist_ok=True)
    weights = PUBLISHED / "weights.safetensors"
    save_file(read_tensors(run / "weights.pt"), weights)
    info = json.loads((run / "run.json").read_text()) | {"weights_sha256": file_hash(weights)}
    (PUBLISHED / "run.json").write_text(json.dumps(info, indent=1) + "\n")


def card(n_parameters: int, tested: list[Run], confidence: pd.DataFrame) -> str:
    """The text of card.md with the numbers of others of its row on actors unknown to them."""
    score, lines = scores.score(tested, RULE), scores.outcomes(tested, RULE)
    corpus = tested[0].corpus
    sex = lines["actor"].isin(corpus.women).map({False: "of men", True: "of women"})
    emotion = lines["emotion"].map(dict(enumerate(corpus.emotions)))
    spans = [f"{low} to {high}" for low, high in confidence["high"].items()]
    return Template(_CARD.read_text("utf-8")).substitute(
        n_parameters=f"{n_parameters:,}",
        n_clips=f"{score.n_clips:,}",
        accuracy=f"{score.accuracy_pct:.1f} % [{score.ci_low_pct:.1f}, {score.ci_high_pct:.1f}]",
        ece=f"{score.ece:.3f}",
        by_emotion=_markdown(_accuracy(lines, emotion).loc[list(corpus.emotions)]),
        by_sex=_markdown(_accuracy(lines, sex)),
        by_confidence=_markdown(confidence.set_axis(spans)),
    )


def by_confidence(tested: list[Run]) -> pd.DataFrame:
    """The clips between each two `EDGES`, by the lower; high is the upper."""
    lines = scores.outcomes(tested, RULE)
    found = _accuracy(lines, pd.cut(lines["confidence"], EDGES, labels=EDGES[:-1]))
    return found.assign(high=EDGES[1:])


def _accuracy(lines: pd.DataFrame, by: pd.Series) -> pd.DataFrame:
    """accuracy_pct with its 95 % interval over actors, low_pct to high_pct, and n_clips."""
    right = lines["correct"].groupby(by, observed=False)
    found = pd.DataFrame({"accuracy_pct": 100 * right.mean(), "n_clips": right.size()})
    for name, of_group in right:
        of_actors = of_group.groupby(lines["actor"])
        ends = np.multiply(100, actor_interval(of_actors.sum(), of_actors.size()))
        found.loc[name, ["low_pct", "high_pct"]] = ends
    return found


def _markdown(table: pd.DataFrame) -> str:
    columns = table[["accuracy_pct", "low_pct", "high_pct", "n_clips"]].itertuples()
    lines = [
        f"| {name} | {accuracy:.1f} [{low:.1f}, {high:.1f}] | {n} |"
        for name, accuracy, low, high, n in columns
    ]
    return "\n".join(["| clips | right, % | how many |", "|:--|--:|--:|", *lines])
