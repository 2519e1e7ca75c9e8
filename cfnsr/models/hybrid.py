"""The hybrid deep model of Zhang et al. (2017), and the fusions that it is compared with.

An AlexNet hears segments of a clip and a C3D sees the frames beside them, see
`cfnsr.models.segment_networks`. The rows here start from the fc7 of both, (clip, unit, segment),
standardised with statistics of the training actors, and end in a linear SVM on the mean over a
clip's segments. They fuse on the four levels of the paper's introduction: features, decisions,
scores, and a model, which is a deep belief network.

The paper's text was not at hand. Sources are notes on it and the first author's example code
(github.com/tzczsq/Learning-Affective-Features-with-a-Hybrid-Deep-Model-for-Audio-Visual-Emotion-Recognition).
That code scales to [0, 1], ends its network in Gaussian units, and lets test clips choose and
scale; here the first machine's Gaussian units want unit variance, all hidden units are binary, and
test clips have no say.
"""

from typing import Literal

import numpy as np
import torch
from sklearn.model_selection import cross_val_predict
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from cfnsr.models.base import EmotionModel, Sizes
from cfnsr.models.late_fusion import Averaging, LateFusion, Multiplication
from cfnsr.models.linear import find_best, folds
from cfnsr.models.rbm import DBN

#: Inverse strengths of the SVM's penalty to choose from.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
#: The same on the last units of a belief network, which vary less than standardised fc7.
STRENGTHS_ABOVE = (1e-2, 1e-1, 1.0, 10.0)
#: Standard deviations within which a belief network takes fc7: units that hardly ever answer in
#: training would shout when they do in a test clip.
WITHIN = 4.0
#: Weights of the face's scores to choose from; the voice's is the rest.
WEIGHTS = np.linspace(0, 1, 21)


class MeanSVM(EmotionModel):
    """A linear SVM on the mean fc7 of one network, or of both side by side: feature level."""

    def __init__(self, sizes: Sizes, *, n_networks: int = 1) -> None:
        super().__init__()
        self.linear = nn.Linear(n_networks * n_units(sizes), sizes.n_emotions)

    def forward(self, *fc7: Tensor) -> Tensor:
        return self.linear(torch.cat(fc7, dim=1).mean(dim=2))

    def fit(self, emotion: np.ndarray, actor: np.ndarray, *inputs: np.ndarray) -> None:
        """Find the SVM; its penalty is chosen over the training actors."""
        x = np.concatenate(inputs, axis=1).mean(axis=2)
        find_best(self.linear, svm(), x, emotion, actor, STRENGTHS)


class DecisionLevel(LateFusion):
    """A rule joins what both networks' SVMs decide; the softmax of their scores stands for p."""

    def __init__(self, sizes: Sizes) -> None:
        nn.Module.__init__(self)
        self.video = MeanSVM(sizes)
        self.audio = MeanSVM(sizes)


class Sum(DecisionLevel, Averaging):
    """The emotion of the largest sum of both probabilities."""


class Product(DecisionLevel, Multiplication):
    """The emotion of the largest product."""


class Maximum(DecisionLevel):
    """The emotion of the largest probability that either has."""

    @classmethod
    def combine(cls, log_p: Tensor) -> Tensor:
        return log_p.amax(dim=0)


class Minimum(DecisionLevel):
    """The emotion whose smaller probability is largest."""

    @classmethod
    def combine(cls, log_p: Tensor) -> Tensor:
        return log_p.amin(dim=0)


class ScoreLevel(EmotionModel):
    """A weighted sum of the scores of both networks' SVMs."""

    video_weight: Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.video = MeanSVM(sizes)
        self.audio = MeanSVM(sizes)
        self.register_buffer("video_weight", torch.tensor(0.5))

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        w = self.video_weight
        return w * self.video(video) + (1 - w) * self.audio(audio)

    def fit(self, emotion: np.ndarray, actor: np.ndarray, *inputs: np.ndarray) -> None:
        """Find the SVMs, then the weight that suits actors best whom these were not fitted to.

        It is the middle of the best weights, in a cross-validation over the training actors.
        """
        scores = []
        for part, fc7 in zip((self.video, self.audio), inputs, strict=True):
            x = fc7.mean(axis=2)
            best = find_best(part.linear, svm(), x, emotion, actor, STRENGTHS)
            with threadpool_limits(1):
                scores.append(
                    cross_val_predict(
                        best, x, emotion, groups=actor, cv=folds(actor), method="decision_function"
                    )
                )
        video, audio = scores
        joint = WEIGHTS[:, None, None] * video + (1 - WEIGHTS[:, None, None]) * audio
        n_right = (best.classes_[joint.argmax(axis=2)] == emotion).sum(axis=1)
        self.video_weight.fill_(float(np.median(WEIGHTS[n_right == n_right.max()])))


class ModelLevel(EmotionModel):
    """A deep belief network on both fc7 of each segment; its last units, averaged, go to an SVM.

    Args:
        fine_tuning: to predict each segment's emotion, as the paper is said to, or to reconstruct
            its input, as its first author's code does.
    """

    def __init__(self, sizes: Sizes, *, fine_tuning: Literal["labels", "reconstruction"]) -> None:
        super().__init__()
        self.hybrid = sizes.hybrid
        self.fine_tuning = fine_tuning
        self.dbn = DBN(2 * n_units(sizes), self.hybrid.n_hidden)
        self.linear = nn.Linear(self.hybrid.n_hidden[-1], sizes.n_emotions)

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        return self.linear(self._mean(video, audio))

    def _mean(self, video: Tensor, audio: Tensor) -> Tensor:
        segments = side_by_side(video, audio)
        return self.dbn(segments).unflatten(0, (len(video), -1)).mean(dim=1)

    def fit(self, emotion: np.ndarray, actor: np.ndarray, *inputs: np.ndarray) -> None:
        """Let the machines learn, fine-tune them, then find the SVM."""
        hybrid = self.hybrid
        video, audio = (torch.from_numpy(fc7).to(self.linear.weight.device) for fc7 in inputs)
        segments = side_by_side(video, audio)
        self.dbn.learn(
            segments,
            hybrid.n_rbm_epochs,
            hybrid.rbm_learning_rate,
            hybrid.n_gibbs_steps,
            hybrid.persistent,
        )
        label = None
        if self.fine_tuning == "labels":
            label = torch.from_numpy(emotion).to(video.device).repeat_interleave(video.shape[2])
        n_emotions = self.linear.out_features
        self.dbn.fine_tune(segments, hybrid.n_fine_tuning_epochs, label, n_emotions)
        with torch.no_grad():
            x = self._mean(video, audio).cpu().numpy()
        find_best(self.linear, svm(), x, emotion, actor, STRENGTHS_ABOVE)


def side_by_side(video: Tensor, audio: Tensor) -> Tensor:
    """Both fc7 (clip, unit, segment) as (clip * segment, 2 * unit), see `WITHIN`."""
    return torch.cat([video, audio], dim=1).transpose(1, 2).flatten(0, 1).clamp(-WITHIN, WITHIN)


def n_units(sizes: Sizes) -> int:
    """Of one network's fc7."""
    return sizes.shape("video_fc7")[0]


def svm() -> LinearSVC:
    """One against the rest; the seed is that of its solver, whose optimum is unique."""
    return LinearSVC(random_state=0, max_iter=10_000)
