"""What notebook 04 found, in sentences whose numbers are those of its tables; imports no torch."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cfnsr.evaluation.typeset import signed

if TYPE_CHECKING:
    from cfnsr.attention.maps import Gate

_ON_THE_CUE = {
    "above": "it lies on the cue",
    "at": "it lies on the cue no more than by chance",
    "below": "it lies off the cue",
}


def lifts(localisation: pd.DataFrame, row: str) -> list[str]:
    """How a row's maps, and those of its untrained network, compare with chance."""
    if localisation.empty:
        return ["where the cue is, is not known of these clips"]
    return [
        f"{line['label']}, {line['map']}: lift {_lift(line)}, {line['against_chance']} chance"
        for line in localisation[localisation["row"] == row].to_dict("records")
    ]


def gains(table: pd.DataFrame) -> list[str]:
    """How each map's areas compare with hiding at random."""
    words = {"above": "better than", "at": "no better than", "below": "worse than", "": "unlike"}
    return [
        f"{line['map']}, {line['area']}: {_gain(line)}, {words[_side(line)]} hiding at random"
        for line in table.to_dict("records")
    ]


def gates(by_row: Mapping[str, Sequence["Gate"]]) -> list[str]:
    """How much of the gates' variance is from clip to clip: of a constant, nothing is."""
    lines = []
    for label, found in by_row.items():
        for gate in found:
            total = gate.values.var()
            share = gate.values.var(axis=0).mean() / total if total else 0.0
            low, high = gate.values.mean(axis=0).min(), gate.values.mean(axis=0).max()
            lines.append(
                f"{label}, {gate.place}, {gate.modality}: channels' mean gates from {low:.2f} to "
                f"{high:.2f}; {100 * share:.0f} % of the variance is from clip to clip"
            )
    return lines


def reliance(table: pd.DataFrame, row: str) -> list[str]:
    """What is left to a row without one modality, beside the network of the other alone.

    Args:
        table: of `cfnsr.attention.reliance.summarise`.
    """
    plain = table[table["level"].isna()].to_dict("records")
    own = {line["condition"]: line for line in plain if line["row"] == row}
    intact = {line["row"]: line for line in plain if line["condition"] == "intact"}
    lines = [f"{own['intact']['label']}: {_accuracy(own['intact'])} of the clips intact"]
    follows = {}
    for silenced, other, part in (("video", "audio", "face"), ("audio", "video", "voice")):
        if f"{silenced} silenced" not in own:
            continue
        alone = intact.get(other) if other != row else None
        beside = f" ({alone['label']} alone: {_accuracy(alone)})" if alone else ""
        lines.append(f"{part} silenced: {_accuracy(own[f'{silenced} silenced'])}{beside}")
        follows[part] = own[f"{silenced} swapped"]["follows_pct"]
    for part, share in follows.items():
        lines.append(f"{part} of another clip: that clip's emotion in {share:.0f} %")
    if len(follows) == 2:
        more, less = sorted(follows, key=lambda part: -follows[part])
        lines.append(
            "so neither modality is believed more than the other"
            if follows[more] == follows[less]
            else f"so where the two contradict each other, the {more} wins more often than the "
            f"{less}"
        )
    return lines


def conclusion(localisation: pd.DataFrame, table: pd.DataFrame, row: str) -> list[str]:
    """What each of a row's maps is worth: where it lies, and whether that matters.

    Args:
        localisation: the lifts; empty where no cue is known.
        table: the areas of deletion and insertion.
    """
    of_row = localisation[localisation["row"] == row].to_dict("records")
    # The trained network's come first, its untrained one's later.
    lift_of = {line["map"]: line for line in of_row if line["label"] == of_row[0]["label"]}
    sentences, off_the_cue = [], []
    for name in dict.fromkeys(table["map"]):
        lines = table[table["map"] == name].to_dict("records")
        sides = {line["area"]: _side(line) for line in lines}
        numbers = ", ".join(f"{line['area']} {_gain(line)}" for line in lines)
        place, where = "", lift_of.get(name)
        if where is not None and where["against_chance"]:
            place = f"{_ON_THE_CUE[where['against_chance']]} (lift {_lift(where)}), and "
            if where["against_chance"] == "below" and set(sides.values()) == {"above"}:
                off_the_cue.append(name)
        sentences.append(f"{name}: {place}{_worth(sides)} ({numbers}).")
    if off_the_cue:
        sentences.append(
            f"Off the cue and yet what the network needs ({'; '.join(off_the_cue)}) is no "
            "contradiction: a lift weighs brows, eyes and mouth by their area, deletion by what "
            "the network loses with a place."
        )
    return sentences


def _worth(sides: Mapping[str, str]) -> str:
    above = [area for area, side in sides.items() if side == "above"]
    below = [area for area, side in sides.items() if side == "below"]
    if below:
        return f"it misleads: by {' and '.join(below)} it is worse than chance"
    if len(above) == len(sides):
        return "what it ranks first matters to the network"
    if above:
        return f"what it ranks first matters by {above[0]} alone"
    return "it explains nothing: hiding at random does as much"


def _side(line: Mapping[Any, Any]) -> str:
    """Of 0, on which side the interval is; empty without one."""
    if np.isnan(line["ci_low"]):
        return ""
    return "above" if line["ci_low"] > 0 else "below" if line["ci_high"] < 0 else "at"


def _lift(line: Mapping[Any, Any]) -> str:
    return f"{line['lift']:.2f} [{line['ci_low']:.2f}, {line['ci_high']:.2f}]"


def _gain(line: Mapping[Any, Any]) -> str:
    mean, low, high = (signed(line[name], 2) for name in ("mean", "ci_low", "ci_high"))
    return f"{mean} [{low}, {high}]"


def _accuracy(line: Mapping[Any, Any]) -> str:
    ends = f"[{line['ci_low_pct']:.0f}, {line['ci_high_pct']:.0f}]"
    return f"{line['accuracy_pct']:.0f} % {ends}"
