"""Restricted Boltzmann machines, and deep belief networks made of them."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH_SIZE, MOMENTUM, WEIGHT_DECAY = 100, 0.5, 2e-4
FINE_TUNING_RATE = 0.001


class RBM(nn.Module):
    r"""Visible units v, binary or Gaussian of unit variance, and binary hidden units h.

    With :math:`p(v, h) \propto e^{-E(v, h)}`,

    .. math::
        E(v, h) = -c^\top h - v^\top W h + \begin{cases} -b^\top v & \text{binary} \\
            \tfrac12 \lVert v - b \rVert^2 & \text{Gaussian.} \end{cases}

    Gaussian units are for standardised data. Sources: Hinton 2002, 2012; Tieleman 2008.
    """

    def __init__(
        self, n_visible: int, n_hidden: int, visible: Literal["binary", "gaussian"]
    ) -> None:
        super().__init__()
        self.is_gaussian = visible == "gaussian"
        self.weight = nn.Parameter(0.01 * torch.randn(n_visible, n_hidden))  # W
        self.visible_bias = nn.Parameter(torch.zeros(n_visible))  # b
        self.hidden_bias = nn.Parameter(torch.zeros(n_hidden))  # c

    def forward(self, visible: Tensor) -> Tensor:
        """p(h = 1 | v): (n, visible) to (n, hidden)."""
        return torch.sigmoid(visible @ self.weight + self.hidden_bias)

    def mean_visible(self, hidden: Tensor) -> Tensor:
        """E(v | h): (n, hidden) to (n, visible)."""
        total = hidden @ self.weight.T + self.visible_bias
        return total if self.is_gaussian else torch.sigmoid(total)

    def free_energy(self, visible: Tensor) -> Tensor:
        """-log of the sum over h of exp(-E(v, h)): (n, visible) to (n,)."""
        of_hidden = F.softplus(visible @ self.weight + self.hidden_bias).sum(dim=1)
        if self.is_gaussian:
            return (visible - self.visible_bias).square().sum(dim=1) / 2 - of_hidden
        return -visible @ self.visible_bias - of_hidden

    @torch.no_grad()
    def gibbs(self, visible: Tensor, n_steps: int) -> Tensor:
        """Samples of v after so many steps v to h to v, from `visible` (n, visible)."""
        for _ in range(n_steps):
            mean = self.mean_visible(_drawn(self(visible)))
            visible = mean + torch.randn_like(mean) if self.is_gaussian else _drawn(mean)
        return visible

    def learn(
        self,
        data: Tensor,
        n_epochs: int,
        learning_rate: float,
        n_steps: int = 1,
        persistent: bool = False,
    ) -> None:
        """Contrastive divergence on data (n, visible).

        The gradient is that of the free energy of the data less that of samples, which are
        `n_steps` from the data, or from the last samples (persistent).
        """
        optimizer = torch.optim.SGD(
            self.parameters(), learning_rate, MOMENTUM, weight_decay=WEIGHT_DECAY
        )
        samples = None
        for _ in range(n_epochs):
            for chosen in torch.randperm(len(data)).split(BATCH_SIZE):
                batch = data[chosen]
                start = batch if samples is None or not persistent else samples
                samples = self.gibbs(start, n_steps)
                loss = self.free_energy(batch).mean() - self.free_energy(samples).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    @torch.no_grad()
    def reconstruction_error(self, visible: Tensor) -> float:
        """Mean squared difference of v from the mean of v given the mean of h."""
        return F.mse_loss(self.mean_visible(self(visible)), visible).item()


class DBN(nn.Module):
    """Stacked RBMs, the first with Gaussian visible units: (n, visible) to (n, last hidden).

    Each learns from the probabilities of the hidden units below (Hinton et al. 2006).
    """

    def __init__(self, n_visible: int, n_hidden: Sequence[int]) -> None:
        super().__init__()
        self.rbms = [
            RBM(below, above, "binary" if i else "gaussian")
            for i, (below, above) in enumerate(pairwise((n_visible, *n_hidden)))
        ]
        self.up = nn.Sequential(*self.rbms)

    def forward(self, visible: Tensor) -> Tensor:
        return self.up(visible)

    def reconstruct(self, hidden: Tensor) -> Tensor:
        """Down again, by the same weights: (n, last hidden) to (n, visible)."""
        for rbm in reversed(self.rbms):
            hidden = rbm.mean_visible(hidden)
        return hidden

    def learn(self, data: Tensor, *how: Any) -> None:
        """Each machine after the one below it, see `RBM.learn`."""
        for rbm in self.rbms:
            rbm.learn(data, *how)
            data = rbm(data).detach()

    def fine_tune(self, data: Tensor, n_epochs: int, label: Tensor | None, n_emotions: int) -> None:
        """Back-propagation through all layers, by Adam.

        Args:
            data: (n, visible).
            label: emotions' indices (n,), which a softmax layer, then forgotten, predicts; without
                them the data are reconstructed.
        """
        head = nn.Linear(len(self.rbms[-1].hidden_bias), n_emotions, device=data.device)
        trained = [*self.parameters(), *head.parameters()]
        optimizer = torch.optim.Adam(trained, FINE_TUNING_RATE)
        for _ in range(n_epochs):
            for chosen in torch.randperm(len(data)).split(BATCH_SIZE):
                hidden = self(data[chosen])
                if label is None:
                    loss = F.mse_loss(self.reconstruct(hidden), data[chosen])
                else:
                    loss = F.cross_entropy(head(hidden), label[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()


def _drawn(p: Tensor) -> Tensor:
    """Ones with these probabilities; `torch.bernoulli` draws other numbers on other processors."""
    return (torch.rand_like(p) < p).to(p)
