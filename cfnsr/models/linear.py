"""The yardstick: multinomial logistic regression on statistics of the whole clip."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from cfnsr.errors import InputError
from cfnsr.models.base import N_EMOTIONS, EmotionModel, Sizes

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
        self.linear = nn.Linear(n_statistics, N_EMOTIONS)

    def forward(self, of_landmarks: Tensor, of_mfcc: Tensor) -> Tensor:
        return self.linear(torch.cat([of_landmarks, of_mfcc], dim=1))

    @torch.no_grad()
    def fit(self, emotion: np.ndarray, actor: np.ndarray, *inputs: np.ndarray) -> None:
        """Minimise the cross entropy (eq. 10) under an L2 penalty.

        The penalty is the one that classifies unheard actors best in a cross-validation over the
        training actors given here; no other actor has a say.

        Raises:
            InputError: there is one actor, or one emotion in a part of the cross-validation.
        """
        statistics = np.concatenate(inputs, axis=1)
        n_actors, n_emotions = len(np.unique(actor)), len(np.unique(emotion))
        folds = []
        if n_actors > 1:
            folds = list(GroupKFold(min(5, n_actors)).split(statistics, groups=actor))
        if min((len(np.unique(emotion[rest])) for rest, _ in folds), default=0) < 2:
            raise InputError(
                "the linear row is cross-validated over its training actors: expected several who "
                f"show several emotions, found {n_actors} of {n_emotions}; add clips or choose "
                "another row"
            )
        search = GridSearchCV(
            LogisticRegression(max_iter=2000), {"C": STRENGTHS}, cv=folds, scoring="accuracy"
        )
        # Two threads on problems this small spend their time waiting for each other.
        with threadpool_limits(1):
            best = search.fit(statistics, emotion).best_estimator_
        weight, bias = best.coef_, best.intercept_
        if len(best.classes_) == 2:  # one line for both: the log odds of the second
            weight, bias = (np.concatenate([-part, part]) / 2 for part in (weight, bias))
        # Emotions that no training clip shows keep a logit that never wins.
        self.linear.weight.zero_()
        self.linear.bias.fill_(bias.min() - 20)
        self.linear.weight[best.classes_] = torch.from_numpy(weight).float()
        self.linear.bias[best.classes_] = torch.from_numpy(bias).float()
