"""Where paper and release disagree: CFN-SR trained again with one difference switched over.

runs/<data>/switches/<protocol>/<switch>/<row>/fold_<k>/seed_<s>/ holds the runs, each as
`cfnsr.training.runs` describes: `cfn_sr`, and before it the encoder that it concerns.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from cfnsr.data import preprocess, sources
from cfnsr.data.clips import load_clips
from cfnsr.errors import InputError
from cfnsr.evaluation.scores import PairedTest, paired_test
from cfnsr.evaluation.selection import Rule
from cfnsr.evaluation.uncertainty import holm
from cfnsr.models.registry import REFERENCE
from cfnsr.params import Params
from cfnsr.training.experiment import Experiment, starting_weights
from cfnsr.training.runs import read_runs
from cfnsr.training.train import train

EFFECT_COLUMNS = ("switch", "label", *PairedTest.__dataclass_fields__, "p_holm")


@dataclass(frozen=True)
class Switch:
    """One difference, as it is in the release or may be read from the paper.

    `encoder` is the encoder that is trained anew with it; `options` are switches of the model,
    `training` and `preprocess` values of these sections of params.yaml, `seed_step` is added to
    the seeds, and so large that none of them is another's.
    """

    label: str
    encoder: Literal["video", "audio"] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    seed_step: int = 0

    def __post_init__(self) -> None:
        if self.preprocess and self.encoder != "video":
            raise ValueError("other arrays need a video encoder of their own")


SWITCHES: dict[str, Switch] = {
    "another_seed": Switch("nothing but the seed", encoder="video", seed_step=1000),
    "batch_summed_attention": Switch(
        "attention maps summed over the batch (release)", options={"batch_summed_attention": True}
    ),
    "softmax_over_clip": Switch(
        "softmax over the clip, not the slice (paper)", options={"softmax_over": "clip"}
    ),
    "no_stem_relu": Switch(
        "no ReLU after the video stem (release)", encoder="video", options={"stem_relu": False}
    ),
    "consecutive_frames": Switch(
        "consecutive frames (paper)", encoder="video", preprocess={"frame_choice": "consecutive"}
    ),
    "squashed_first": Switch(
        "frames squashed before the crop (release)",
        encoder="video",
        preprocess={"crop": "squashed_first"},
    ),
    "augment_per_frame": Switch(
        "crop and flip drawn for each frame (release)",
        encoder="video",
        training={"augment_per_frame": True},
    ),
    "unscaled_mfcc": Switch(
        "MFCCs not standardised (release)", encoder="audio", training={"standardise_mfcc": False}
    ),
}


def find(name: str) -> Switch:
    """The switch of that name.

    Raises:
        InputError: there is none; the message lists all.
    """
    if name not in SWITCHES:
        raise InputError(f"switch: expected one of {', '.join(SWITCHES)}; found {name}")
    return SWITCHES[name]


def applies(switch: Switch, params: Params) -> bool:
    """Whether the switch is not what the parameters say already, and the data have its subject."""
    source = params.source
    if params.data == "ravdess_landmarks" and "crop" in switch.preprocess:
        return False  # nothing is cropped out of a drawn face
    sections = ((source.training, switch.training), (source.preprocess, switch.preprocess))
    return all(getattr(section, key) != to for section, new in sections for key, to in new.items())


def switched(params: Params, switch: Switch) -> Params:
    """The parameters with the switch set."""
    source = params.source
    source = source.model_copy(
        update={
            "training": source.training.model_copy(update=dict(switch.training)),
            "preprocess": source.preprocess.model_copy(update=dict(switch.preprocess)),
        }
    )
    seeds = tuple(seed + switch.seed_step for seed in params.seeds)
    return params.model_copy(update={params.data: source, "seeds": seeds})


def train_switched(name: str, params: Params, repository: Path) -> None:
    """Train CFN-SR on every chosen fold with one switch set.

    The other encoder, and both where the switch concerns neither, are those that the pipeline has
    trained. Where `applies` is false, an empty folder is left.

    Raises:
        InputError: no such switch; encoders, arrays or clips that are not there yet.
    """
    switch = find(name)
    runs = repository / "runs" / params.data
    trained = runs / params.protocol
    output = runs / "switches" / params.protocol / name
    output.mkdir(parents=True, exist_ok=True)
    if not applies(switch, params):
        return
    changed = switched(params, switch)
    clips = load_clips(_arrays(name, switch, changed, repository), params.source.drawing)
    for fold in params.folds:
        for seed, own_seed in zip(params.seeds, changed.seeds, strict=True):
            weights = starting_weights(REFERENCE, fold, seed, params, trained)
            for row in filter(None, (switch.encoder, REFERENCE)):
                starts_from = weights
                if row != REFERENCE:
                    starts_from = starting_weights(row, fold, seed, params, trained)
                experiment = Experiment(
                    row, fold, own_seed, changed, clips, starts_from, switch.options
                )
                folder = output / row / f"fold_{fold}" / f"seed_{own_seed}"
                train(experiment, folder, repository / "build" / "scratch" / "train")
                weights[row] = folder / "weights.pt"


def effects(params: Params, repository: Path, rule: Rule) -> pd.DataFrame:
    """What each trained switch adds to the accuracy of CFN-SR: `EFFECT_COLUMNS`.

    p_holm is corrected over the switches; the other seed, a yardstick, is not among them.
    """
    runs = repository / "runs" / params.data
    unswitched = read_runs(runs / params.protocol, [REFERENCE], params.folds)
    lines = []
    for name, switch in SWITCHES.items():
        found = read_runs(runs / "switches" / params.protocol / name, [REFERENCE], params.folds)
        if found:
            test = asdict(paired_test(found, unswitched, rule))
            lines.append({"switch": name, "label": switch.label, **test})
    table = pd.DataFrame(lines, columns=list(EFFECT_COLUMNS))
    switched_over = table["switch"] != "another_seed"
    return table.assign(p_holm=holm(table["p_value"].where(switched_over)))


def _arrays(name: str, switch: Switch, changed: Params, repository: Path) -> Path:
    """The pipeline's arrays, or, where the switch concerns them, others made now."""
    build = repository / "build" / changed.data
    if not switch.preprocess:
        return build / "arrays"
    folder = build / "switches" / name / "arrays"
    preprocess.preprocess(
        sources.read_manifest(build / "manifest.csv"),
        sources.provide(changed, repository),
        folder,
        changed.data,
        changed.source.preprocess,
        repository / "build" / "scratch" / "preprocess",
    )
    return folder
