"""Which epoch of a run is reported: four rules, computed from the logits of every epoch.

Epochs count from 1. The functions of an accuracy table (fold, epoch) serve runs and published
training logs alike. Of equally accurate epochs the earliest is taken.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from cfnsr.training.runs import Run

Rule = Literal[
    "best test epoch",
    "last epoch",
    "chosen on other folds",
    "chosen on validation actors",
]
RULES: tuple[Rule, ...] = get_args(Rule)

# Two means over the same clips may differ by rounding of the last bit; that is a tie.
_DECIMALS = 9


def best_epoch(accuracy: ArrayLike) -> np.ndarray:
    """The epoch of highest accuracy, the earliest on ties; (..., epoch) to (...)."""
    return np.asarray(accuracy).round(_DECIMALS).argmax(axis=-1) + 1


def choose_epochs(
    accuracy: ArrayLike, rule: Rule, validation_accuracy: ArrayLike | None = None
) -> np.ndarray:
    """The epoch that a rule reports for each fold, (fold,).

    * `best test epoch`: highest test accuracy of the fold itself. The paper's rule (section 3.2
      leaves it out, its code shows it), and optimistic: the test clips choose their own epoch.
    * `last epoch`: no choice at all.
    * `chosen on other folds`: highest mean test accuracy over all folds but this one, of two or
      more.
    * `chosen on validation actors`: highest accuracy on actors that neither train nor test.

    Args:
        accuracy: test accuracy, (fold, epoch), in any unit.
        validation_accuracy: the same on the validation actors; only the last rule reads it.
    """
    test = np.asarray(accuracy, dtype=float)
    n_folds, n_epochs = test.shape
    if rule == "best test epoch":
        return best_epoch(test)
    if rule == "last epoch":
        return np.full(n_folds, n_epochs)
    if rule == "chosen on other folds":
        return best_epoch((test.sum(axis=0) - test) / (n_folds - 1))
    assert validation_accuracy is not None
    return best_epoch(validation_accuracy)


def at_epochs(accuracy: ArrayLike, epochs: ArrayLike) -> np.ndarray:
    """Each fold's accuracy, (fold,), at its epoch.

    >>> at_epochs([[60, 70], [50, 40]], choose_epochs([[60, 70], [50, 40]], "last epoch"))
    array([70, 40])
    """
    table = np.asarray(accuracy)
    return table[np.arange(len(table)), np.asarray(epochs) - 1]


def with_epochs(runs: Sequence[Run], rule: Rule) -> list[tuple[Run, int]]:
    """The runs to which a rule applies, each with the epoch that it reports.

    Left out are runs without validation actors under `chosen on validation actors`, and under
    `chosen on other folds` the seeds that have a single fold or folds of unequal length. The list
    is empty where the rule applies to no run.
    """
    groups = [[run] for run in runs]
    if rule == "chosen on other folds":
        seeds = sorted({run.seed for run in runs})
        groups = [[run for run in runs if run.seed == seed] for seed in seeds]
        groups = [g for g in groups if len(g) > 1 and len({run.n_epochs for run in g}) == 1]
    elif rule == "chosen on validation actors":
        groups = [[run] for run in runs if run.validation is not None]
    chosen: list[tuple[Run, int]] = []
    for folds in groups:
        test = np.stack([run.test.accuracy_pct for run in folds])  # fold epoch
        validation = [run.validation.accuracy_pct for run in folds if run.validation is not None]
        epochs = choose_epochs(test, rule, validation or None)
        chosen += zip(folds, epochs.tolist(), strict=True)
    return chosen
