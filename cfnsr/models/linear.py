"""The yardstick: multinomial logistic regression on statistics of the whole clip."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from cfnsr.data.summary import N_LANDMARK_STATISTICS, N_STATISTICS_PER_MFCC
from cfnsr.models.base import N_EMOTIONS, EmotionModel, Sizes

#: Inverse strengths of the L2 penalty to choose from.
STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)


class Linear(EmotionModel):
    """Not in the paper: what a network must beat to have earned its parameters.

    Its input is `cfnsr.data.summary`'s statistics of landmarks and MFCCs, (clip, n, 1),
    standardised.
    It has no epochs: `fit` finds the optimum.
    """

    uses_video = False
    audio_input = "statistics"

    @classmethod
    def sound_shape(cls, sizes: Sizes) -> tuple[int, int]:
        return N_LANDMARK_STATISTICS + N_STATISTICS_PER_MFCC * sizes.n_mfcc, 1

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        n_statistics, _ = self.sound_shape(sizes)
        self.linear = nn.Linear(n_statistics, N_EMOTIONS)

    def forward(self, frames: Tensor, statistics: Tensor) -> Tensor:
        return self.linear(statistics.flatten(1))

    @torch.no_grad()
    def fit(self, statistics: np.ndarray, emotion: np.ndarray, actor: np.ndarray) -> None:
        """Minimise the cross entropy (eq. 10) under an L2 penalty.

        The penalty is the one that classifies unheard actors best in a cross-validation over the
        training actors given here; no other actor has a say.

        Args:
            statistics: standardised (clip, n, 1); emotion: class indices; actor: of each clip.
        """
        folds = GroupKFold(min(5, len(np.unique(actor))))
        search = GridSearchCV(
            LogisticRegression(max_iter=2000), {"C": STRENGTHS}, cv=folds, scoring="accuracy"
        )
        # Two threads on problems this small spend their time waiting for each other.
        with threadpool_limits(1):
            best = search.fit(statistics[:, :, 0], emotion, groups=actor).best_estimator_
        # Emotions that no training clip shows keep a logit that never wins.
        self.linear.weight.zero_()
        self.linear.bias.fill_(best.intercept_.min() - 20)
        self.linear.weight[best.classes_] = torch.from_numpy(best.coef_).float()
        self.linear.bias[best.classes_] = torch.from_numpy(best.intercept_).float()
