"""What switches change, as a forest plot; never imports torch."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cfnsr.evaluation.typeset import signed
from cfnsr.figures.style import BLUE, GREY, LIGHT_GREY, drawn, entitle, to_ends
from cfnsr.models.registry import find


@drawn
def forest(effects: pd.DataFrame, unswitched_pct: float, title: str) -> Figure:
    """What each switch adds to the accuracy, with its 95 % interval over actors.

    The grey band is the interval of another seed, with which nothing was switched.

    Args:
        effects: of `cfnsr.evaluation.tables.switch_effects`.
    """
    figure, axis = plt.subplots(figsize=(8, 1.5 + 0.33 * len(effects)))
    height = np.arange(len(effects))
    value, ends = effects["difference_pct"], to_ends(effects, "difference_pct")
    seed = effects[[find(row).seed_step > 0 for row in effects["switch"]]]
    if len(seed):
        band = seed[["ci_low_pct", "ci_high_pct"]].iloc[0]
        axis.axvspan(*band, color=LIGHT_GREY, label="another seed alone", zorder=0)
    axis.axvline(0, color=GREY, linewidth=1)
    axis.errorbar(value, height, xerr=ends, fmt="o", color=BLUE, capsize=3)
    axis.set_yticks(height, effects["label"])
    axis.set_ylim(len(effects) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel(f"change of accuracy, percentage points (unchanged: {unswitched_pct:.1f} %)")
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
