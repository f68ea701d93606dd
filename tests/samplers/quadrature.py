"""Draws of one number against its posterior by quadrature."""

import deepinv
import numpy as np
import torch

import posterior


class Matrix(deepinv.physics.LinearPhysics):
    """y = M x for vectors."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = matrix

    def A(self, x, **kwargs):
        return x @ self.matrix.to(x).T

    def A_adjoint(self, y, **kwargs):
        return y @ self.matrix.to(y)


def tensor(*values):
    return torch.tensor([values], dtype=torch.float64)


def against_quadrature(like, mean, std, sampler, draws=3000):
    """Bias and spread of draws for x ~ N(mean, std^2), in posterior std, and Kolmogorov's distance times sqrt(draws)."""
    prior = posterior.GaussianPrior(tensor(mean)[0], tensor(std**2))
    found = posterior.sample(prior, like, sampler, draws=draws, batch_size=draws).samples[:, 0].double()
    x = torch.linspace(mean - 8 * std, mean + 8 * std, 8001, dtype=torch.float64)[:, None]
    weight = torch.softmax(like.log_prob(x) - 0.5 * ((x[:, 0] - mean) / std) ** 2, 0)
    location = weight @ x[:, 0]
    spread = (weight @ (x[:, 0] - location) ** 2).sqrt()
    at = torch.from_numpy(np.interp(found.numpy(), x[:, 0].numpy(), weight.cumsum(0).numpy())).sort().values
    distance = (at - (torch.arange(draws) + 0.5) / draws).abs().max() * draws**0.5
    return float((found.mean() - location) / spread), float(found.std() / spread), float(distance)
