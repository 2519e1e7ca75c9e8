"""What the authors' released training log says under each rule for choosing the epoch.

`released_training_log.csv` holds the numbers of a log in the history of the authors'
repository (skeletonNN/CFN-SR, commit c0502c5, out_3.txt): CFN-SR on five folds of RAVDESS, 70
epochs each, accuracies in percent with two decimals.
"""

from importlib import resources
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cfnsr.data.corpora.ravdess import CLIPS_PER_FOLD
from cfnsr.evaluation.selection import at_epochs, best_epoch, choose_epochs
from cfnsr.evaluation.uncertainty import LEVEL

#: The rules that a log of test accuracies allows, from the most optimistic to none at all.
LogRule = Literal["best test epoch", "best common epoch", "chosen on other folds", "last epoch"]
LOG_RULES: tuple[LogRule, ...] = get_args(LogRule)

N_SIMULATIONS = 2_000
_SEED = 0


def read() -> pd.DataFrame:
    """The released log, one line a fold and epoch."""
    with resources.files("cfnsr.reanalysis").joinpath("released_training_log.csv").open() as file:
        return pd.read_csv(file)


def accuracy() -> np.ndarray:
    """Test accuracy as logged, in percent with two decimals, (fold, epoch)."""
    log = read()
    return log.pivot(index="fold", columns="epoch", values="test_top1_pct").to_numpy(float)


def chosen_epochs(accuracy: ArrayLike, rule: LogRule) -> np.ndarray:
    """The epoch that a rule reports for each fold, (fold,), of accuracies (fold, epoch).

    `best common epoch` is the one epoch, for all folds, of highest mean test accuracy; for the
    others see `selection.choose_epochs`.
    """
    if rule == "best common epoch":
        table = np.asarray(accuracy)
        return np.full(len(table), best_epoch(table.mean(axis=0)))
    return choose_epochs(accuracy, rule)


def selection_rules(accuracy: ArrayLike) -> pd.DataFrame:
    """The mean over folds that each rule reports: rule, accuracy_pct."""
    means = [at_epochs(accuracy, chosen_epochs(accuracy, rule)).mean() for rule in LOG_RULES]
    return pd.DataFrame({"rule": LOG_RULES, "accuracy_pct": means})


def ties_on_other_folds(accuracy: ArrayLike) -> pd.DataFrame:
    """The folds of which several epochs are best on the other folds, counted in whole clips.

    Columns: fold, epoch, n_correct_on_others (whole clips), logged_sum_on_others_pct (the
    two-decimal percentages added up, which may differ where the clips do not), fold_accuracy_pct
    (in the fold itself), mean_accuracy_pct (over all folds, if this epoch is taken).
    """
    logged = np.asarray(accuracy, dtype=float)
    n_correct = np.round(logged * CLIPS_PER_FOLD / 100).astype(int)
    on_others = n_correct.sum(axis=0) - n_correct  # fold epoch
    logged_sum = logged.sum(axis=0) - logged
    exact = 100 * n_correct / CLIPS_PER_FOLD
    earliest = choose_epochs(n_correct, "chosen on other folds")
    lines = []
    for fold, line in enumerate(on_others):
        tied = np.flatnonzero(line == line.max()) + 1
        for epoch in tied if len(tied) > 1 else ():
            taken = np.where(np.arange(len(logged)) == fold, epoch, earliest)
            lines.append(
                {
                    "fold": fold + 1,
                    "epoch": int(epoch),
                    "n_correct_on_others": int(line[epoch - 1]),
                    "logged_sum_on_others_pct": logged_sum[fold, epoch - 1],
                    "fold_accuracy_pct": exact[fold, epoch - 1],
                    "mean_accuracy_pct": at_epochs(exact, taken).mean(),
                }
            )
    return pd.DataFrame(lines)


def fold_noise(accuracy: ArrayLike) -> pd.DataFrame:
    """How much each fold's accuracy jumps from epoch to epoch.

    Columns: fold, mean_pct (over all epochs), jump_sd_pct (the root mean square of the differences
    of successive epochs, over √2, which slow learning leaves alone), binomial_sd_pct (of 240
    independent clips at the mean accuracy), best_epoch, best_pct.
    """
    table = np.asarray(accuracy, dtype=float)
    mean = table.mean(axis=1)
    return pd.DataFrame(
        {
            "fold": np.arange(1, len(table) + 1),
            "mean_pct": mean,
            "jump_sd_pct": np.sqrt((np.diff(table, axis=1) ** 2).mean(axis=1) / 2),
            "binomial_sd_pct": np.sqrt(mean * (100 - mean) / CLIPS_PER_FOLD),
            "best_epoch": best_epoch(table),
            "best_pct": table.max(axis=1),
        }
    )


def choosing_gain(accuracy: ArrayLike) -> pd.DataFrame:
    """How far above the mean epoch each rule is: in the log, and where all epochs are equally good.

    Two kinds of chance, 2,000 logs each from a fixed seed, in which every epoch of a fold has the
    fold's mean accuracy: `binomial_points` with 240 independent clips tested anew each epoch,
    `jumps_points` with normal noise of the log's own jumps (`fold_noise`), with the range that 95 %
    of these logs fall into. Columns: rule, log_points, binomial_points, jumps_points,
    jumps_low_points, jumps_high_points.
    """
    table = np.asarray(accuracy, dtype=float)
    noise = fold_noise(table)
    mean, jump_sd = noise["mean_pct"].to_numpy(), noise["jump_sd_pct"].to_numpy()
    generator = np.random.default_rng(_SEED)
    size = (N_SIMULATIONS, table.shape[1], len(table))  # simulation epoch fold
    n_correct = generator.binomial(CLIPS_PER_FOLD, mean / 100, size)
    binomial = _gains(100 * n_correct.swapaxes(1, 2) / CLIPS_PER_FOLD)
    jumps = _gains(generator.normal(mean, jump_sd, size).swapaxes(1, 2))
    low, high = np.quantile(jumps, [LEVEL / 2, 1 - LEVEL / 2], axis=0)
    return pd.DataFrame(
        {
            "rule": LOG_RULES,
            "log_points": _gains(table[None])[0],
            "binomial_points": binomial.mean(axis=0),
            "jumps_points": jumps.mean(axis=0),
            "jumps_low_points": low,
            "jumps_high_points": high,
        }
    )


def _gains(logs: np.ndarray) -> np.ndarray:
    """Points above the mean epoch of each rule, (log, rule), of logs (log, fold, epoch)."""
    return np.array(
        [
            [at_epochs(log, chosen_epochs(log, rule)).mean() - log.mean() for rule in LOG_RULES]
            for log in logs
        ]
    )
