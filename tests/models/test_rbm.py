"""Tests of `cfnsr.models.rbm` against enumeration, scikit-learn and cases worked by hand."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from sklearn.neural_network import BernoulliRBM

from cfnsr.models.rbm import DBN, RBM


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


N_EMOTIONS = 8


def machine(n_visible=4, n_hidden=3, visible="binary", scale=1.0):
    """One whose units pull at each other."""
    rbm = RBM(n_visible, n_hidden, visible).double()
    with torch.no_grad():
        for parameter in rbm.parameters():
            parameter.copy_(scale * torch.randn_like(parameter))
    return rbm


def states(n):
    return torch.tensor(list(product([0.0, 1.0], repeat=n)), dtype=torch.float64)


def energy(rbm, visible, hidden):
    """Straight from the definition, of one state."""
    w, b, c = (p.detach() for p in (rbm.weight, rbm.visible_bias, rbm.hidden_bias))
    of_visible = ((visible - b) ** 2).sum() / 2 if rbm.is_gaussian else -(b * visible).sum()
    return of_visible - (c * hidden).sum() - visible @ w @ hidden


def log_likelihood(rbm, visible):
    """log p(v) of a binary machine, exactly, by going through all of its visible states."""
    every = states(len(rbm.visible_bias)).to(visible)
    return -rbm.free_energy(visible) - torch.logsumexp(-rbm.free_energy(every), dim=0)


@pytest.mark.parametrize("kind", ["binary", "gaussian"])
def test_free_energy_is_a_sum_over_all_hidden_states(kind):
    rbm = machine(visible=kind)
    visible = states(4) if kind == "binary" else torch.randn(16, 4).double()
    weights = torch.stack(
        [torch.stack([torch.exp(-energy(rbm, v, h)) for h in states(3)]).sum() for v in visible]
    )
    torch.testing.assert_close(rbm.free_energy(visible).detach(), -weights.log())


def test_a_gaussian_machine_agrees_with_a_case_worked_by_hand():
    rbm = RBM(2, 1, "gaussian").double()
    with torch.no_grad():
        rbm.weight.copy_(torch.tensor([[1.0], [2.0]]))
        rbm.visible_bias.copy_(torch.tensor([0.5, -1.0]))
        rbm.hidden_bias.fill_(-1.0)
    v = torch.tensor(
        [[1.5, 1.0]]
    ).double()  # pulls with -1 + 1.5 + 2 = 2.5; is (1, 2) from its bias
    p = 1 / (1 + math.exp(-2.5))
    assert rbm(v).item() == pytest.approx(p)
    assert rbm.free_energy(v).item() == pytest.approx(2.5 - math.log(1 + math.exp(2.5)))
    assert rbm.mean_visible(rbm(v))[0].tolist() == pytest.approx([0.5 + p, -1 + 2 * p])
    error = ((1 - p) ** 2 + (2 - 2 * p) ** 2) / 2
    assert rbm.reconstruction_error(v) == pytest.approx(error)


def test_binary_units_agree_with_scikit_learn():
    theirs = BernoulliRBM(n_components=5, n_iter=3, random_state=0)
    data = (np.random.default_rng(0).random((50, 7)) < 0.4).astype(float)
    theirs.fit(data)
    ours = RBM(7, 5, "binary").double()
    with torch.no_grad():
        ours.weight.copy_(torch.from_numpy(theirs.components_.T))
        ours.visible_bias.copy_(torch.from_numpy(theirs.intercept_visible_))
        ours.hidden_bias.copy_(torch.from_numpy(theirs.intercept_hidden_))
    visible = torch.from_numpy(data)
    np.testing.assert_allclose(ours(visible).detach(), theirs.transform(data), atol=1e-6)
    np.testing.assert_allclose(
        ours.free_energy(visible).detach(), theirs._free_energy(data), atol=1e-6
    )


@pytest.mark.parametrize("persistent", [False, True])
def test_the_likelihood_of_a_tiny_machine_rises_as_it_learns(persistent):
    rbm = RBM(4, 3, "binary")
    data = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]]).repeat(100, 1)
    before = log_likelihood(rbm, data).mean().item()
    assert before == pytest.approx(-4 * math.log(2), abs=0.02)
    error_before = rbm.reconstruction_error(data)
    rbm.learn(data, n_epochs=150, learning_rate=0.2, persistent=persistent)
    after = log_likelihood(rbm, data).mean().item()
    assert after > before + 0.7
    assert rbm.reconstruction_error(data) < error_before


def test_the_gradient_of_contrastive_divergence_comes_to_the_exact_one_with_more_steps():
    rbm = machine(scale=2.5)
    data = states(4)[[3, 3, 12, 5]]
    loss = -log_likelihood(rbm, data).mean()
    exact = torch.cat([g.ravel() for g in torch.autograd.grad(loss, list(rbm.parameters()))])
    distances = []
    for n_steps in (1, 2, 10):
        samples = rbm.gibbs(data.repeat(20_000, 1), n_steps)
        loss = rbm.free_energy(data).mean() - rbm.free_energy(samples).mean()
        found = torch.autograd.grad(loss, list(rbm.parameters()))
        distances.append((torch.cat([g.ravel() for g in found]) - exact).norm().item())
    assert distances[0] > 2 * distances[1] > 10 * distances[2], distances


def test_samples_of_a_gaussian_machine_have_its_mean_and_covariance():
    rbm = machine(2, 2, "gaussian", scale=0.8)
    samples = rbm.gibbs(torch.zeros(50_000, 2, dtype=torch.float64), 60)
    w, b, c = (p.detach() for p in (rbm.weight, rbm.visible_bias, rbm.hidden_bias))
    log_p = torch.stack([h @ c + b @ w @ h + (w @ h).square().sum() / 2 for h in states(2)])
    p, means = log_p.softmax(0), torch.stack([b + w @ h for h in states(2)])
    mean = p @ means
    covariance = torch.eye(2) + (means - mean).T @ (p[:, None] * (means - mean))
    torch.testing.assert_close(samples.mean(0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(samples.T.cov(), covariance, atol=0.06, rtol=0)


def correlated(n=400):
    """Eight standardised units that follow two hidden ones."""
    hidden = torch.randn(n, 2)
    visible = hidden.repeat_interleave(4, dim=1) + 0.3 * torch.randn(n, 8)
    return (visible - visible.mean(0)) / visible.std(0), (hidden[:, 0] > 0).long()


def test_equal_seeds_give_equal_networks():
    data, label = correlated()
    learnt = []
    for _ in range(2):
        torch.manual_seed(3)
        dbn = DBN(8, [6, 4])
        dbn.learn(data, 2, 0.05)
        dbn.fine_tune(data, 2, label, N_EMOTIONS)
        learnt.append(dbn(data))
    assert torch.equal(*learnt)


def test_fine_tuning_reconstructs_better_and_with_labels_tells_them_apart():
    data, label = correlated()
    dbn = DBN(8, [16, 8])
    dbn.learn(data, 40, 0.1)
    before = (dbn.reconstruct(dbn(data)) - data).square().mean().item()
    dbn.fine_tune(data, 60, None, N_EMOTIONS)
    assert (dbn.reconstruct(dbn(data)) - data).square().mean().item() < 0.8 * before

    dbn = DBN(8, [16, 8])
    dbn.fine_tune(data, 100, label, N_EMOTIONS)
    hidden = dbn(data).detach()
    means = torch.stack([hidden[label == k].mean(0) for k in (0, 1)])
    nearest = torch.cdist(hidden, means).argmin(dim=1)
    assert (nearest == label).double().mean() > 0.9
