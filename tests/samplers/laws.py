"""The exact law of samplers that are affine in their noise: no Monte Carlo."""

import math

import deepinv
import torch

import posterior
from posterior.problem import Problem

F64 = torch.float64
SIZE, COUNT = 4, 3


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class Impulses:
    """Noise for a batch whose first item gets none and whose every other item gets a single one, all at other places."""

    def __init__(self, batch):
        self.batch, self.used = batch, 0

    def __call__(self, shape=None):
        shape = (SIZE,) if shape is None else shape
        size = math.prod(shape)
        out = torch.zeros(self.batch, size, dtype=F64)
        places = torch.arange(size)
        inside = self.used + 1 + places < self.batch
        out[(self.used + 1 + places)[inside], places[inside]] = 1.0
        self.used += size
        return out.reshape(self.batch, *shape)


class Setting:
    """N(m, C) on four points, three data, each with a noise level of its own."""

    def __init__(self):
        root = normal(SIZE, SIZE)
        self.mean, self.cov = normal(SIZE, seed=1), root @ root.T / SIZE + 0.1 * torch.eye(SIZE, dtype=F64)
        self.matrix = normal(COUNT, SIZE, seed=2) / 2
        self.y = normal(1, COUNT, seed=3)
        self.noise = torch.tensor([0.1, 0.3, 1.0], dtype=F64)
        self.variance = torch.diag(self.noise**2)
        self.prior = posterior.GaussianPrior(self.mean, self.cov)
        self.likelihood = posterior.GaussianLikelihood(dense(self.matrix), self.y, self.noise)
        self.exact = posterior.exact_posterior(self.prior, self.likelihood)
        self.eye = torch.eye(SIZE, dtype=F64)

    def problem(self):
        return Problem(self.prior, self.likelihood.in_standard(self.prior.affine, (SIZE,)), (SIZE,))

    def prior_draws(self, count):
        return self.mean + self.prior.reference.cov.sqrt(normal(count, SIZE, seed=4))

    def gain(self, variance):
        """K of N(., variance I) given the data."""
        seen = variance * self.matrix.T
        return seen @ torch.linalg.inv(self.matrix @ seen + self.variance)

    def denoiser(self, sigma):
        """dD/dx."""
        return self.cov @ torch.linalg.inv(self.cov + sigma**2 * self.eye)

    def start(self, sigma):
        """Mean and covariance of the noised prior."""
        return self.mean, self.cov + sigma**2 * self.eye


def dense(matrix):
    return deepinv.physics.LinearPhysics(
        A=lambda x, **_: x @ matrix.T, A_adjoint=lambda u, **_: u @ matrix, img_size=(matrix.shape[1],)
    )


def law(sampler, problem):
    """Mean (n,) and covariance (n, n) of a draw."""
    used = _run(sampler, problem, Impulses(1))[1]
    x, _ = _run(sampler, problem, Impulses(used + 1))
    response = x[1:] - x[:1]
    return x[0], response.T @ response


def _run(sampler, problem, noise):
    with torch.no_grad():
        state = sampler.init(problem, noise)
        for _ in range(sampler.steps):
            state, _ = sampler.step(problem, state, noise)
    return state.x, noise.used


def errors(found, exact):
    """Distance of the mean in posterior standard deviations, root-mean-square, and the ratio of standard deviations."""
    mean, cov = found
    std = exact.cov.diagonal().sqrt()
    return float(((mean - exact.location) / std).square().mean().sqrt()), cov.diagonal().sqrt() / std
