"""Twists: guesses of p(y | x_sigma) that steer particles, and the moves that they propose.

A twist psi_sigma(x) = N(y; A(D), V) tells particles early which of them the data favour. Importance weights
undo what it does to their law, so any twist is exact as the population grows; a good one needs few particles.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from posterior.guidance.linear import prior_mean
from posterior.priors.covariance import Covariance
from posterior.problem import Problem
from posterior.samplers.smc.core import PopulationNoise
from posterior.samplers.smc.kernels import ModelKernel, catch_up, denoise_in_chunks
from posterior.samplers.smc.measurements import (
    LARGEST_DENSE,
    LARGEST_JACOBIAN,
    Measurements,
    half_log_det,
    log_normal,
    positive,
    solve,
    solve_transposed,
)
from posterior.samplers.smc.outlook import Law, Outlook, mean_variance

LARGEST_SHRINKAGE = 0.95

Pull = Callable[[Tensor], Tensor]


class Twist(ABC):
    """A twist of one run; what it `evaluate`s is carried by the particles until they `move`."""

    def start(self, problem: Problem, sigma: float, noise: PopulationNoise) -> tuple[Tensor, Tensor]:
        """Particles at the first noise level and log(model density / proposal density), (N,).

        The model starts from N(mu, C + sigma^2 I), the noised reference Gaussian; a prior without one from
        N(0, (rms^2 + sigma^2) I).
        """
        z = noise()
        return problem.noised_prior(z, sigma), z.new_zeros(len(z))

    @abstractmethod
    def evaluate(self, problem: Problem, x: Tensor, sigma: float) -> tuple[Tensor, ...]:
        """At particles ``x`` (N, *event): D, log psi (N,), and what `move` needs besides, all (N, ...)."""

    @abstractmethod
    def move(
        self,
        problem: Problem,
        x: Tensor,
        carried: tuple[Tensor, ...],
        sigma: float,
        sigma_next: float,
        noise: PopulationNoise,
    ) -> tuple[Tensor, Tensor]:
        """Particles at ``sigma_next`` and log(model density / proposal density) of each move, (N,)."""

    @abstractmethod
    def wander(self, problem: Problem, x: Tensor, sigma: float, sigma_next: float, noise: PopulationNoise) -> Tensor:
        """Particles at ``sigma_next`` by the model's own move, that no data steer."""


class GradientTwist(Twist):
    """psi = N(y; A(D), R + S), moves steered by its gradient, S constant under differentiation.

    S is 0 ("sharp"), r^2 A A^T with r^2 = sigma^2 t^2 / (sigma^2 + t^2), t the prior's rms ("pigdm"), or
    sigma^2 A J A^T, J = dD/dx, the exact covariance of A x0 given x ("mmps"). For a nonlinear operator psi is an
    `Outlook`, and where noise is not Gaussian it comes to the law itself as sigma falls (`Law`); "sharp" takes the
    operator as it is, and the law in the last weight.

    The model's own move is driven by white noise z,

        x' = x_hat + (1 - r) k (D(x_hat, sigma') - D(x, sigma)),  x_hat = r x + (1 - r) D(x, sigma) + s z,

    with r = (sigma' / sigma)^2, s = sigma' sqrt(1 - r), k = 1 / (sqrt(r) (1 + sqrt(r))). D is a martingale of
    the reverse process, so the correction has mean zero to leading order; it restores the variance of x0
    given x, which the ancestral move (k = 0) loses. k makes the move exact where J = I, and nearly so for
    every Gaussian. The proposal draws z ~ N(delta, I - Q M Q^T), the law of z given y were x0 given x
    Gaussian, and its density ratio is that of two Gaussians in z whatever the network does. With "sharp" and
    "pigdm" the covariance of z stays the identity, and "sharp" is steered by the gradient divided by 1 + r^2
    a, a the size of A A^T / R along the residual.

    References:
        Wu, Trippe, Naesseth, Blei, Cunningham. Practical and asymptotically exact conditional sampling in
        diffusion models. NeurIPS 2023. arXiv:2306.17775. Kloeden, Platen. Numerical solution of stochastic
        differential equations. 1992. Section 14.1.
    """

    def __init__(self, problem: Problem, kind: Literal["sharp", "pigdm", "mmps"], corrected: bool) -> None:
        count, linear = problem.likelihood.count, problem.likelihood.model.linear
        largest = LARGEST_DENSE if kind == "pigdm" and linear else LARGEST_JACOBIAN
        if kind != "sharp" and count > largest:
            other = "twist='sharp'" if kind == "pigdm" or not linear else "twist='pigdm', twist='reference'"
            raise ValueError(
                f"TDS: twist='{kind}' forms matrices of the size of the data, {count}, and takes at most "
                f"{largest}; use {other}, or a sampler without particles (MMPS, GaussianBridge)"
            )
        self.kind = kind
        self.corrected = corrected
        self.data = Measurements.of(problem, matrix=kind != "sharp")
        self.outlook = None if kind == "sharp" or linear else Outlook(problem)
        self.law = None if kind == "sharp" else Law.of(problem, self.data)

    def evaluate(self, problem: Problem, x: Tensor, sigma: float) -> tuple[Tensor, ...]:
        """D, log psi, sigma^2 J^T A^T V^-1 (y - A(D)), size of J; and for "mmps" sigma J A^T V^(-T/2)."""
        return problem.in_chunks(lambda piece: self._evaluate(problem, piece, sigma), x)

    def _evaluate(self, problem: Problem, x: Tensor, sigma: float) -> tuple[Tensor, ...]:
        mean, vjp = problem.denoise_with_vjp(x, sigma)
        if self.kind == "sharp":
            return mean, *self._sharp(problem, mean, vjp, sigma)
        see = self._linear if self.outlook is None else self._nonlinear
        log_twist, *rest = see(problem, x, mean, vjp, sigma)
        if self.law is not None and self.outlook is None:
            log_twist = log_twist + self.law.log_factor(mean, mean_variance(problem, sigma))
        return mean, log_twist, *rest

    def _sharp(self, problem: Problem, mean: Tensor, vjp: Pull, sigma: float) -> tuple[Tensor, ...]:
        data = self.data
        residual = data.residual(mean)
        white = residual / data.variance.sqrt()
        log_twist = log_normal(white, 0.5 * data.variance.log().sum())
        uphill = data.pull(mean, residual / data.variance)
        # Along the residual A A^T is this number; without it the steps of informative data overshoot.
        along = uphill.flatten(1).square().sum(1) / positive(white.square().sum(1))
        damped = uphill.flatten(1) / (1 + self._spread2(problem, sigma) * along)[:, None]
        return log_twist, sigma**2 * vjp(damped.reshape(mean.shape)), self._typical_size(problem, sigma, mean)

    def _nonlinear(self, problem: Problem, x: Tensor, mean: Tensor, vjp: Pull, sigma: float) -> tuple[Tensor, ...]:
        assert self.outlook is not None
        look = self.outlook.look(problem, mean, sigma)
        shift = sigma**2 * vjp(look.uphill.reshape(x.shape))
        if self.kind == "pigdm":
            return look.log_value, shift, self._typical_size(problem, sigma, x)
        size, seen, pulled = _responses(vjp, look.rows, x)
        root = _robust_root(sigma**2 * seen, torch.diag_embed(look.noise))
        spread = sigma * torch.linalg.solve_triangular(root, pulled.mT, upper=False).mT
        return look.log_value, shift, size, spread

    def _linear(self, problem: Problem, x: Tensor, mean: Tensor, vjp: Pull, sigma: float) -> tuple[Tensor, ...]:
        data = self.data
        assert data.rows is not None
        prediction = data.likelihood.model.predict(mean)
        residual, noise = data.y - data.flat(prediction), data.noise(prediction)
        noise = torch.diag(noise[0]) if len(noise) == 1 else torch.diag_embed(noise)
        if self.kind == "pigdm":
            root = torch.linalg.cholesky(self._spread2(problem, sigma) * data.rows @ data.rows.mT + noise)
            white = solve(root, residual)
            shift = sigma**2 * vjp((solve_transposed(root, white) @ data.rows).reshape(x.shape))
            return log_normal(white, half_log_det(root)), shift, self._typical_size(problem, sigma, x)
        size, seen, pulled = _responses(vjp, data.rows, x)
        root = _robust_root(sigma**2 * seen, noise)
        white = solve(root, residual)
        spread = sigma * torch.linalg.solve_triangular(root, pulled.mT, upper=False).mT
        shift = sigma * (spread @ white[:, :, None])[..., 0]
        return log_normal(white, half_log_det(root)), shift.reshape(x.shape), size, spread

    def move(
        self,
        problem: Problem,
        x: Tensor,
        carried: tuple[Tensor, ...],
        sigma: float,
        sigma_next: float,
        noise: PopulationNoise,
    ) -> tuple[Tensor, Tensor]:
        """See `Twist.move`; the last move, to sigma' = 0, is x0 = D, unsteered."""
        mean, _, shift, size, *rest = carried
        if sigma_next == 0:
            return mean, torch.zeros_like(size)
        r = (sigma_next / sigma) ** 2
        s = sigma_next * math.sqrt(1 - r)
        # The noise acts on x' through I + c J; what the data say of x' is mapped back through its inverse.
        inverse = 1 / (1 + (1 / math.sqrt(r) - 1) * size)
        delta = (1 - r) / s * inverse[:, None] * shift.flatten(1)
        xi = noise().flatten(1)
        white, log_det = xi, torch.zeros_like(size)
        if rest:
            white, log_det = _shrink(xi, math.sqrt((1 - r) / r) * inverse[:, None, None] * rest[0])
        z = white + delta
        log_ratio = 0.5 * (xi.square().sum(1) - z.square().sum(1)) + log_det
        return self._advance(problem, x, mean, z.reshape(x.shape), sigma, sigma_next), log_ratio

    def wander(self, problem: Problem, x: Tensor, sigma: float, sigma_next: float, noise: PopulationNoise) -> Tensor:
        """See `Twist.wander`."""
        return self._advance(problem, x, denoise_in_chunks(problem, x, sigma), noise(), sigma, sigma_next)

    def _advance(self, problem: Problem, x: Tensor, mean: Tensor, z: Tensor, sigma: float, sigma_next: float) -> Tensor:
        """The model's move of ``x``, with D = ``mean``, driven by ``z``."""
        r = (sigma_next / sigma) ** 2
        ahead = r * x + (1 - r) * mean + sigma_next * math.sqrt(1 - r) * z
        if not self.corrected:
            return ahead
        return ahead + catch_up(r) * (denoise_in_chunks(problem, ahead, sigma_next) - mean)

    def _spread2(self, problem: Problem, sigma: float) -> float:
        """Variance of a coordinate of x0 given x, were the prior white."""
        return 1 / (1 / sigma**2 + 1 / problem.prior.rms**2)

    def _typical_size(self, problem: Problem, sigma: float, x: Tensor) -> Tensor:
        return x.new_full((len(x),), self._spread2(problem, sigma) / sigma**2)


class ReferenceTwist(Twist):
    """psi = N(y; A D, R + A C_sigma A^T), C_sigma the reference Gaussian's covariance of x0 given x_sigma.

    The model's move draws x0 ~ N(D, C_sigma), the proposal draws it given y (Matheron's rule), and x0 is
    integrated out of the weight: with m = r x + (1 - r) D, P = s^2 I + (1 - r)^2 C_sigma and C_ = s^2 C_sigma
    P^-1,

        p(x' | x) / q(x' | x) = psi_sigma(x) / N(y; A (D + (1 - r) C_sigma P^-1 (x' - m)), R + A C_ A^T).

    The weights of a Gaussian prior are constant, at any number of steps. One network call a step and no
    backward pass; one factorisation of the data's covariance at each level, shared by all particles. Linear
    operators only.
    """

    def __init__(self, problem: Problem) -> None:
        count = problem.likelihood.count
        if problem.prior.reference is None:
            raise ValueError(f"TDS: twist='reference', but prior '{problem.prior.name}' carries no reference Gaussian")
        if not problem.likelihood.model.linear:
            raise ValueError("TDS: twist='reference' takes linear operators only; use twist='mmps' or twist='sharp'")
        if count > LARGEST_DENSE:
            raise ValueError(
                f"TDS: twist='reference' forms matrices of the size of the data, {count}, and takes at most "
                f"{LARGEST_DENSE}; use twist='sharp', or a sampler without particles (GaussianBridge, MMPS)"
            )
        self.reference = problem.prior.reference
        self.data = Measurements.of(problem, matrix=True)
        self._roots: dict[float, Tensor] = {}

    def start(self, problem: Problem, sigma: float, noise: PopulationNoise) -> tuple[Tensor, Tensor]:
        """See `Twist.start`; the proposal is the reference Gaussian's posterior, noised."""
        cov = self.reference.covariance(problem.event_shape)
        mean = prior_mean(problem, self.data.y.new_zeros(1, *problem.event_shape), self.reference)
        root = self.data.covariance_root(cov, problem.event_shape)
        x = self._draw(mean, cov, root, noise) + sigma * noise()
        following = self.data.covariance_root(cov.given(sigma), problem.event_shape)
        seen = self._log_twist(self.reference.denoise(x, sigma), following)
        return x, self._log_twist(mean, root) - seen

    def evaluate(self, problem: Problem, x: Tensor, sigma: float) -> tuple[Tensor, ...]:
        """D and log psi."""
        mean = denoise_in_chunks(problem, x, sigma)
        return mean, self._log_twist(mean, self._root(problem, sigma))

    def move(
        self,
        problem: Problem,
        x: Tensor,
        carried: tuple[Tensor, ...],
        sigma: float,
        sigma_next: float,
        noise: PopulationNoise,
    ) -> tuple[Tensor, Tensor]:
        """See `Twist.move`."""
        mean, log_twist = carried
        cov = self.reference.error_covariance(problem.event_shape, sigma)
        x0 = self._draw(mean, cov, self._root(problem, sigma), noise)
        if sigma_next == 0:
            like = self.data.likelihood  # log psi leaves the change of data out, the last weight does not
            return x0, log_twist - like.gaussian_log_prob(x0) + like.log_scale
        r = (sigma_next / sigma) ** 2
        s2 = sigma_next**2 * (1 - r)
        ahead = r * x + (1 - r) * x0 + math.sqrt(s2) * noise()
        off = ahead - r * x - (1 - r) * mean
        expected = mean + cov.function(off, lambda e: (1 - r) * e / (s2 + (1 - r) ** 2 * e))
        left = cov.eigenvalues * s2 / (s2 + (1 - r) ** 2 * cov.eigenvalues)
        following = self.reference.error_covariance(problem.event_shape, sigma_next)
        if torch.allclose(left, following.eigenvalues, rtol=1e-9, atol=0):
            given = self._root(problem, sigma_next)
        else:
            given = self.data.covariance_root(Covariance(cov.basis, left), problem.event_shape)
        return ahead, log_twist - self._log_twist(expected, given)

    def wander(self, problem: Problem, x: Tensor, sigma: float, sigma_next: float, noise: PopulationNoise) -> Tensor:
        """See `Twist.wander`."""
        mean = denoise_in_chunks(problem, x, sigma)
        return ModelKernel.of(self.reference, x, mean, sigma, sigma_next).draw(noise())

    def _draw(self, mean: Tensor, cov: Covariance, root: Tensor, noise: PopulationNoise) -> Tensor:
        """Draws of N(mean, cov) given the data, L = ``root`` the factor of their covariance."""
        prior_draw = mean + cov.sqrt(noise())
        eta = self.data.variance.sqrt() * noise((len(self.data.y),))
        return prior_draw + cov.apply(self.data.explain(root, self.data.residual(prior_draw) - eta).reshape(prior_draw.shape))

    def _root(self, problem: Problem, sigma: float) -> Tensor:
        if sigma not in self._roots:
            while len(self._roots) > 1:
                del self._roots[next(iter(self._roots))]
            cov = self.reference.error_covariance(problem.event_shape, sigma)
            self._roots[sigma] = self.data.covariance_root(cov, problem.event_shape)
        return self._roots[sigma]

    def _log_twist(self, mean: Tensor, root: Tensor) -> Tensor:
        return log_normal(solve(root, self.data.residual(mean)), half_log_det(root))


def _responses(vjp: Pull, rows: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The typical eigenvalue (B,) of J along ``rows`` (m, n) or (B, m, n), A J A^T made symmetric, and J A^T (B, n, m)."""
    columns = [vjp(row.expand(len(x), -1).reshape(x.shape)).flatten(1) for row in rows.unbind(-2)]
    pulled = torch.stack(columns, 2)
    seen = rows @ pulled
    size = seen.diagonal(dim1=1, dim2=2).sum(1) / positive(rows.square().sum((-2, -1)))
    return size.clamp(0, 4), (seen + seen.mT) / 2, pulled


def _robust_root(signal: Tensor, noise: Tensor) -> Tensor:
    """Cholesky factors of signal + noise, (B, m, m); the noise may be shared, (m, m).

    Where that is not positive, as a trained network's Jacobian may make it, the signal's negative eigenvalues
    are dropped.
    """
    root, info = torch.linalg.cholesky_ex(signal + noise)
    for i in torch.nonzero(info).flatten().tolist():
        kept = torch.zeros_like(signal[i])
        if torch.isfinite(signal[i]).all():
            values, vectors = torch.linalg.eigh(signal[i])
            kept = (vectors * values.clamp_min(0)) @ vectors.T
        root[i] = torch.linalg.cholesky(kept + (noise if noise.ndim == 2 else noise[i]))
    return root


def _shrink(xi: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """(I - Q M Q^T) xi, whose covariance is I - Q Q^T, and the log-determinant of that map.

    Eigenvalues of Q Q^T above 0.95 (`LARGEST_SHRINKAGE`), which approximations can produce, shrink the noise as 0.95 does.

    Args:
        xi: White noise (B, n).
        q: Q, (B, n, m).
    """
    values, vectors = torch.linalg.eigh(q.mT @ q)
    root = (1 - values.clamp(0, LARGEST_SHRINKAGE)).sqrt()
    # (1 - root) / values, where these are zero but for rounding too, as there are more data than unknowns.
    share = LARGEST_SHRINKAGE / values.clamp_min(LARGEST_SHRINKAGE) / (1 + root)
    inner = vectors.mT @ (q.mT @ xi[:, :, None])
    taken = q @ (vectors @ (share[:, :, None] * inner))
    return xi - taken[..., 0], root.log().sum(1)
