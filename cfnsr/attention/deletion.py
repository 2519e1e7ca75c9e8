"""Does attention matter? Hide what a map ranks first, and see how sure the network remains.

Deletion and insertion curves after Petsiuk et al. 2018 (RISE), against hiding at random.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from cfnsr.attention.maps import Modality
from cfnsr.data.clips import Arrays
from cfnsr.training.trained import Viewed

#: A score of each clip, (clip,), when the regions of a bool (clip, region) are hidden.
Score = Callable[[np.ndarray], np.ndarray]
N_STEPS = 10
N_RANDOM = 4
_SHARES = np.linspace(0, 1, N_STEPS + 1)


@dataclass(frozen=True, eq=False)
class Curves:
    """The score of each clip as its regions are hidden, most or least attended first, or at random.

    `hidden` (step,) is the share of the area that is hidden, 0 to 1; the others are (step, clip).
    Read backwards, `least_first` is the insertion curve: all is hidden at its end, and the most
    attended regions come back first.
    """

    hidden: np.ndarray
    most_first: np.ndarray
    least_first: np.ndarray
    random: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence["Curves"]) -> "Curves":
        """The clips of several, which were hidden in the same steps."""
        arrays = (
            np.concatenate([getattr(part, name) for part in parts], axis=1)
            for name in ("most_first", "least_first", "random")
        )
        return cls(parts[0].hidden, *arrays)

    @property
    def deletion_gain(self) -> np.ndarray:
        """Area between hiding at random and hiding the most attended first, (clip,).

        Above 0 the map finds what the network needs, at 0 it is as good as chance.
        """
        return np.trapezoid(self.random - self.most_first, self.hidden, axis=0)

    @property
    def insertion_gain(self) -> np.ndarray:
        """Area between keeping the most attended to the last and hiding at random, (clip,)."""
        return np.trapezoid(self.least_first - self.random, self.hidden, axis=0)


def random_scores(
    score: Score, n_clips: int, area: np.ndarray, seed: int, n_orders: int = N_RANDOM
) -> np.ndarray:
    """The score as regions are hidden at random, mean over some orders: (step, clip).

    Args:
        area: how much each region takes up, (region,), in any unit.
    """
    rng = np.random.default_rng(seed)
    orders = rng.random((n_orders, n_clips, len(area)))
    return np.mean([_scores(score, order, area) for order in orders], axis=0)


def curves(
    score: Score, map_: np.ndarray, area: np.ndarray, random: np.ndarray, seed: int
) -> Curves:
    """Hide the regions of each clip as its map ranks them; equal ones in random order.

    Regions differ in area, and to hide a large one does more harm, so all curves run over the
    area that is hidden, not over the number of regions.

    Args:
        map_: (clip, region).
        area: (region,), in any unit.
        random: of the same score, see `random_scores`; maps of one network share it.
    """
    ties = np.random.default_rng([seed, 1]).random(map_.shape)
    rank = np.lexsort((ties, map_)).argsort(axis=1)  # 0 for the least attended
    return Curves(_SHARES, _scores(score, -rank, area), _scores(score, rank, area), random)


def _scores(score: Score, order: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Scores (step, clip) at `_SHARES` of the area, hidden in ascending `order` (clip, region)."""
    n_regions = len(area)
    first_to_last = order.argsort(axis=1)
    position = first_to_last.argsort(axis=1)
    counts = np.unique(np.linspace(0, n_regions, min(N_STEPS, n_regions) + 1).round().astype(int))
    found = np.stack([score(position < n_hidden) for n_hidden in counts], axis=1)  # clip count
    hidden_area = np.cumsum(area[first_to_last], axis=1) / area.sum()
    share = np.column_stack([np.zeros(len(order)), hidden_area])[:, counts]
    return np.stack([np.interp(_SHARES, *pair) for pair in zip(share, found, strict=True)], axis=1)


def score_of(
    view: Viewed, arrays: Arrays, silence: Arrays, modality: Modality, regions: np.ndarray
) -> Score:
    """Probability of the emotion predicted from the whole clip, as parts of it are hidden.

    What is hidden is that of `silence`.

    Args:
        view: of `arrays`.
        silence: see `cfnsr.training.trained.Trained.silence`.
        modality: what is hidden, parts of the picture or moments of the MFCCs.
        regions: the region of each place, int (frame, S, S) or (time,).
    """
    whole = view.logits(arrays).argmax(axis=1)
    # Of a hidden picture the encoder has seen nothing yet.
    name, shown = ("frames", view.trained) if modality == "video" else ("mfcc", view)
    known: dict[bytes, np.ndarray] = {}

    def score(hidden: np.ndarray) -> np.ndarray:
        key = hidden.tobytes()  # every curve begins with nothing and ends with everything hidden
        if key not in known:
            # clip frame line column channel, or clip coefficient time
            where = np.expand_dims(hidden[:, regions], -1 if name == "frames" else 1)
            spoilt = np.where(where, silence[name], arrays[name])
            logits = shown.logits({**arrays, name: spoilt}).astype(np.float64)
            known[key] = special.softmax(logits, axis=1)[np.arange(len(whole)), whole]
        return known[key]

    return score
