"""The effects of `cfnsr.evaluation.switches` as a forest plot; never imports torch."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cfnsr.evaluation.typeset import signed
from cfnsr.figures.style import BLUE, GREY, LIGHT_GREY, drawn, entitle
from cfnsr.evaluation.uncertainty import LEVEL

_SEED = "another_seed"


@drawn
def forest(effects: pd.DataFrame, unswitched_pct: float, title: str) -> Figure:
    """What each switch adds to the accuracy, with its 95 % interval over actors.

    The grey band is the interval of another seed, with which nothing was switched.

    Args:
        effects: `switches.effects`.
        unswitched_pct: accuracy without any switch.
        title: what stands above, with data, protocol and rule.
    """
    figure, axis = plt.subplots(figsize=(8, 1.5 + 0.33 * len(effects)), layout="constrained")
    height = np.arange(len(effects))
    value, low, high = (effects[f"{name}_pct"] for name in ("difference", "ci_low", "ci_high"))
    seed = effects[effects["switch"] == _SEED]
    if len(seed):
        ends = seed[["ci_low_pct", "ci_high_pct"]].iloc[0]
        axis.axvspan(*ends, color=LIGHT_GREY, label="interval of another seed", zorder=0)
    axis.axvline(0, color=GREY, linewidth=1)
    axis.errorbar(value, height, xerr=(value - low, high - value), fmt="o", color=BLUE, capsize=3)
    axis.set_yticks(height, effects["label"])
    axis.set_ylim(len(effects) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel(
        f"change of accuracy, percentage points (without a switch: {unswitched_pct:.1f} %)"
    )
    right = axis.secondary_yaxis("right")
    right.set_yticks(
        height,
        [
            signed(change, 1) + (f", p = {p:.2f}" if np.isfinite(p) else "")
            for change, p in zip(value, effects["p_holm"], strict=True)
        ],
    )
    axis.set_title("on the right: change, and p after Holm's correction", loc="right", fontsize=8)
    right.tick_params(length=0)
    right.spines[:].set_visible(False)
    if len(seed):
        figure.legend(loc="outside lower right")
    entitle(figure, title)
    return figure


def findings(effects: pd.DataFrame) -> list[str]:
    """Sentences on which switches matter beyond chance, and beyond another seed.

    Args:
        effects: `switches.effects`.
    """
    is_seed = effects["switch"] == _SEED
    switched = effects[~is_seed]
    if switched.empty:
        return ["No switch was trained."]
    beyond = switched[switched["p_holm"] < LEVEL]
    largest = switched.iloc[int(switched["difference_pct"].abs().to_numpy().argmax())]
    half_pct = (switched["ci_high_pct"] - switched["ci_low_pct"]).max() / 2
    lines = [
        f"Beyond chance, the accuracy is changed by {len(beyond) or 'none'} of {len(switched)} "
        "switches" + (f": {'; '.join(beyond['label'])}." if len(beyond) else "."),
        f"The largest change is that of: {largest['label']}, {_effect(largest)} points.",
    ]
    if is_seed.any():
        seed = effects[is_seed].iloc[0]
        inside = switched["difference_pct"].between(seed["ci_low_pct"], seed["ci_high_pct"])
        lines.append(
            f"Another seed alone: {_effect(seed)} points, and {inside.sum()} of {len(switched)} "
            "switches lie within that interval."
        )
    lines.append(
        f"The intervals reach up to {half_pct:.1f} points to each side: smaller effects are "
        "neither shown nor excluded."
    )
    return lines


def _effect(line: pd.Series) -> str:
    ends = ", ".join(signed(line[f"ci_{end}_pct"], 1) for end in ("low", "high"))
    return f"{signed(line['difference_pct'], 1)} [{ends}]"
