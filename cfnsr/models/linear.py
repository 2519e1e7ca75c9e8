"""The yardstick: multinomial logistic regression on statistics of the whole clip."""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from cfnsr import InputError
from cfnsr.models.base import EmotionModel, Sizes

#: Inverse strengths of the L2 penalty to choose from.
STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)


class Linear(EmotionModel):
    """Not in the paper: what a network must beat to have earned its parameters.

    It is given statistics of landmarks and of MFCCs, (clip, n) each, see `cfnsr.data.summary`, and
    has no epochs: `fit` finds the optimum.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        n_statistics = sizes.shape("landmark_statistics")[0] + sizes.shape("mfcc_statistics")[0]
        self.linear = nn.Linear(n_statistics, sizes.n_emotions)

    def forward(self, of_landmarks: Tensor, of_mfcc: Tensor) -> Tensor:
        return self.linear(torch.cat([of_landmarks, of_mfcc], dim=1))

    def fit(self, emotion: np.ndarray, actor: np.ndarray, *inputs: np.ndarray) -> None:
        """Minimise the cross entropy (eq. 10) under an L2 penalty, see `find_best`."""
        statistics = np.concatenate(inputs, axis=1)
        find_best(self.linear, LogisticRegression(max_iter=2000), statistics, emotion, actor)


@torch.no_grad()
def find_best(
    layer: nn.Linear,
    estimator: LogisticRegression | LinearSVC,
    x: np.ndarray,
    emotion: np.ndarray,
    actor: np.ndarray,
    strengths: Sequence[float] = STRENGTHS,
) -> LogisticRegression | LinearSVC:
    """Fit a linear classifier to clips, (clip, n), and give `layer` its weights.

    Its penalty is the one that classifies unheard actors best in a cross-validation over those
    given here; no other actor has a say.

    Returns:
        The fitted estimator.

    Raises:
        InputError: there is one actor, or one emotion in a part of the cross-validation.
    """
    parts = folds(actor)
    if min((len(np.unique(emotion[rest])) for rest, _ in parts), default=0) < 2:
        raise InputError(
            "a linear row is cross-validated over its training actors: expected several who show "
            f"several emotions, found {len(np.unique(actor))} of {len(np.unique(emotion))}; add "
            "clips or choose another row"
        )
    search = GridSearchCV(estimator, {"C": strengths}, cv=parts, scoring="accuracy")
    # Two threads on problems this small spend their time waiting for each other.
    with threadpool_limits(1):
        best = search.fit(x, emotion).best_estimator_
    weight, bias = best.coef_, best.intercept_
    if len(best.classes_) == 2:  # one line for both: the log odds of the second
        weight, bias = (np.concatenate([-part, part]) / 2 for part in (weight, bias))
    # Emotions that no training clip shows keep a logit that never wins.
    layer.weight.zero_()
    layer.bias.fill_(bias.min() - 20)
    layer.weight[best.classes_] = torch.from_numpy(weight).to(layer.weight)
    layer.bias[best.classes_] = torch.from_numpy(bias).to(layer.bias)
    return best


def folds(actor: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of the actors who play clips: positions to fit on and to try, nobody in both.

    There is none of a single actor.
    """
    n_actors = len(np.unique(actor))
    if n_actors == 1:
        return []
    return list(GroupKFold(min(5, n_actors)).split(actor, groups=actor))
