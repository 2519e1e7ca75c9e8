"""Ratios over clips, with their 95 % intervals over actors."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cfnsr.evaluation.uncertainty import actor_interval


def ratio(value: ArrayLike, weight: ArrayLike, actor: ArrayLike) -> tuple[float, float, float]:
    """The sum of values over that of weights, all (clip,), and both ends of its interval."""
    values, weights = np.asarray(value), np.asarray(weight)
    sums = pd.DataFrame({"value": values, "weight": weights}).groupby(np.asarray(actor)).sum()
    low, high = actor_interval(sums["value"], sums["weight"])
    return float(values.sum() / weights.sum()), low, high
