"""What data that are not linear in x0 say from afar: p(y | x0) averaged over x0 ~ N(z, c I).

That is p(y | x_sigma) were x0 given x_sigma such a Gaussian, and so the best twist there is. Looked at in one point, |x| says
nothing of its sign near 0 and too much elsewhere: one line through the operator, be it the best on average, stands for one
mode. The average is taken over components, N(z, c I) = mean_k N(z_k, b c I) with z_k ~ N(z, (1 - b) c I), and the operator is
a line in each of them,

    psi(z) = mean_k N(y; A(z_k), R(z_k) + b c A_k A_k^T) (p(y | z) / N(y; A(z), R(z)))^beta,

A_k its derivative at z_k. The last factor is 1 where the noise is Gaussian; else it swaps the Gaussian for the law itself as
x0 becomes certain, beta -> 1, and not all at once in the end. The same components serve every particle and run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from posterior.guidance.linear import prior_mean
from posterior.problem import Problem, pilot_noise
from posterior.samplers.smc.kernels import reference_of
from posterior.samplers.smc.measurements import Measurements, half_log_det, log_normal, positive, solve, solve_transposed

COMPONENTS = 64
# Twists with too light tails lose particles for good: c is taken larger than it is, and components wider than Scott's rule.
WIDER = 1.5
WIDEST = 0.75
# Share of the variance of the data that a line must leave for the operator to count as nothing like one.
BENT = 0.05
PILOTS = 8
# Numbers of derivatives of the operator that are held at a time.
HELD = 2**24
# No datum is given more than this, in log-probability, for not being Gaussian; impossible ones are left to the last weight.
LARGEST_RATIO = 20.0
SMALL = 1e-3
# Not the mean, which a singular curvature makes large, nor the median, which is 0 where half the data say nothing.
TYPICAL = 0.8


@dataclass(frozen=True)
class Law:
    """The law of noise that is not Gaussian, and what it says that its Gaussian does not.

    Args:
        data: The measurements.
        curvature: lambda, that of `typical_curvature`; for tails heavier than a Gaussian's `largest_information`, without which
            their factor, that counts misfits as the noise alone would, outgrows a psi that knows how uncertain x0 is.
        heavy: Whether tails are.
    """

    data: Measurements
    curvature: float
    heavy: bool

    @classmethod
    def of(cls, problem: Problem, data: Measurements) -> Law | None:
        """That of a problem; None where the noise is Gaussian."""
        if problem.likelihood.stand_in == "exact":
            return None
        heavy = problem.likelihood.stand_in == "mixture"
        return cls(data, largest_information(problem, data) if heavy else typical_curvature(problem), heavy)

    def log_factor(self, z: Tensor, c: float) -> Tensor:
        """beta log p(y | z) / N(y; A(z), R(z)), (B,), for x0 ~ N(z, c I); beta = 1 / (1 + c lambda)."""
        like, data = self.data.likelihood, self.data
        prediction = like.model.predict(z)
        root = data.noise(prediction).sqrt()
        gaussian = log_normal((data.y - data.flat(prediction)) / root, root.log().sum(1))
        ratio, most = like.log_prob(z) - gaussian, LARGEST_RATIO * data.y.numel()
        ratio = ratio if self.heavy else torch.nan_to_num(ratio, nan=-most).clamp(-most, most)
        return ratio / (1 + c * self.curvature)


@dataclass(frozen=True)
class Look:
    """psi near ``z`` (B, *event) with n values, m data.

    Args:
        log_value: log psi, (B,).
        uphill: Its gradient by z, (B, n), as (E[x0 | z, y] - z) / c of the components' sum, lines and variances held.
        rows: A_k averaged by what each component says of y, (B, m, n): 0 where two signs are as likely.
        noise: Variance of the data given x0, averaged likewise, (B, m).
    """

    log_value: Tensor
    uphill: Tensor
    rows: Tensor
    noise: Tensor


class Outlook:
    """psi for one run.

    Args:
        problem: Prior and likelihood; few data, since each component factorises matrices of their size.
        gamma: c is gamma^2 times the average variance of x0 given x in the prior's reference Gaussian; without one, in
            N(0, rms^2 I).

    References:
        Alspach, Sorenson. Nonlinear Bayesian estimation using Gaussian sum approximations. 1972. IEEE Trans. Automatic
        Control 17(4). Scott. Multivariate density estimation. 1992 (width of the components).
    """

    def __init__(self, problem: Problem, gamma: float = 1.0) -> None:
        self.data = Measurements.of(problem, matrix=True)
        self.gamma = gamma
        self.law = Law.of(problem, self.data)
        self._widths: dict[float, float] = {}

    def look(self, problem: Problem, z: Tensor, sigma: float) -> Look:
        """psi near ``z``, fields that are guesses of x0 made at noise level ``sigma``."""
        c = WIDER * self.gamma**2 * mean_variance(problem, sigma)
        width = self._width(problem, sigma, c)
        count = COMPONENTS if width < 1 else 1
        shifts = math.sqrt((1 - width) * c) * _points(tuple(z.shape[1:]), z, count)
        batch, data = len(z), self.data
        together = max(1, HELD // (batch * data.y.numel() * z[0].numel()))
        seen: list[tuple[Tensor, ...]] = []
        for some in shifts.split(together):
            logs, *parts = self._components((z + some[:, None]).flatten(0, 1), width * c)
            logs = logs.reshape(len(some), batch)
            parts[0] = width * parts[0] + (some.flatten(1) / c).repeat_interleave(batch, 0)
            total = torch.logsumexp(logs, 0)
            by = (logs - total).exp()
            seen.append((total, *(_mean(by, p.unflatten(0, by.shape)) for p in parts)))
        totals = torch.stack([s[0] for s in seen])
        log_value = torch.logsumexp(totals, 0)
        by = (totals - log_value).exp()
        uphill, rows, noise = (_mean(by, torch.stack(part)) for part in list(zip(*seen, strict=True))[1:])
        log_value = log_value - math.log(count)
        if self.law is not None:
            log_value = log_value + self.law.log_factor(z, c)
        return Look(log_value, uphill, rows, noise)

    def _components(self, z: Tensor, spread2: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log N(y; A(z), R + spread2 A' A'^T) of each, its gradient by z, A' and R."""
        prediction, rows = self.data.line(z)
        noise = self.data.noise(prediction).expand(len(z), -1)
        root = torch.linalg.cholesky(spread2 * rows @ rows.mT + torch.diag_embed(noise))
        white = solve(root, self.data.y - self.data.flat(prediction))
        uphill = (rows.mT @ solve_transposed(root, white)[:, :, None])[..., 0]
        return log_normal(white, half_log_det(root)), uphill, rows, noise

    def _width(self, problem: Problem, sigma: float, c: float) -> float:
        """b: 1, one component, where the operator is a line as far as x0 may be; Scott's rule where it is nothing like one."""
        if sigma not in self._widths:
            dims = min(self.data.y.numel(), math.prod(problem.event_shape))
            narrow = min(WIDER * COMPONENTS ** (-2 / (dims + 4)), WIDEST)
            self._widths[sigma] = 1 - min(self._bent(problem, sigma, c) / BENT, 1.0) * (1 - narrow)
        return self._widths[sigma]

    def _bent(self, problem: Problem, sigma: float, c: float) -> float:
        """How much of the variance of A(x0), x0 ~ N(D, c I), the best line leaves, over typical D."""
        shape, like = problem.event_shape, self.data.y
        reference = reference_of(problem)
        known = reference.covariance(shape).function
        typical = torch.cat([pilot_noise(shape, like, COMPONENTS + k) for k in range(PILOTS)])
        centre = prior_mean(problem, typical, reference) + known(
            typical, lambda e: (e * e / (e + sigma**2).clamp_min(1e-300)).sqrt()
        )
        steps = math.sqrt(c) * _points(shape, like, 2 * PILOTS)
        prediction, rows = self.data.line((centre + steps[:, None]).flatten(0, 1))
        values = self.data.flat(prediction).unflatten(0, (len(steps), len(centre)))
        rows = rows.unflatten(0, values.shape[:2]).mean(0)
        off = values - values.mean(0)
        left = off - torch.einsum("bmn,kn->kbm", rows, steps.flatten(1))
        return float((left.square().sum() / positive(off.square().sum())).clamp(0, 1))


def mean_variance(problem: Problem, sigma: float) -> float:
    """c: the average variance of x0 given x in the reference Gaussian, or in N(0, rms^2 I)."""
    return reference_of(problem).covariance(problem.event_shape).given(sigma).mean_variance


def typical_curvature(problem: Problem, probes: int = 64) -> float:
    """80 % point over x0 of the reference and white v of |v^T H v| / m, H the Hessian of log p(y | x0); 0 without data."""
    like, shape = problem.likelihood, problem.event_shape
    if like.count == 0:
        return 0.0
    reference = reference_of(problem)
    cov = reference.covariance(shape)
    x = reference.mean(shape) + cov.sqrt(torch.cat([pilot_noise(shape, like.y, 2 * k) for k in range(probes)]))
    v = torch.cat([pilot_noise(shape, like.y, 2 * k + 1) for k in range(probes)])
    small = SMALL * problem.prior.rms
    change = like.gradient(x + small * v) - like.gradient(x - small * v)
    curved = (change * v).flatten(1).sum(1).abs() / (2 * small)
    return float(curved.nan_to_num(0.0).double().quantile(TYPICAL)) / min(like.count, v[0].numel())


def largest_information(problem: Problem, data: Measurements) -> float:
    """The largest eigenvalue of R^(-1/2) A' A'^T R^(-1/2), A' the operator's derivative at draws of the reference."""
    if data.rows is not None:
        rows = data.rows[None]
    else:
        shape, reference = problem.event_shape, reference_of(problem)
        white = torch.cat([pilot_noise(shape, data.y, COMPONENTS + k) for k in range(PILOTS)])
        rows = data.line(prior_mean(problem, white, reference) + reference.covariance(shape).sqrt(white))[1]
    return float(torch.linalg.matrix_norm(data.variance.rsqrt()[:, None] * rows, 2).square().max())


def _points(shape: tuple[int, ...], like: Tensor, count: int) -> Tensor:
    """White noise (count, *shape) in pairs of opposite sign; 0 for one point."""
    if count == 1:
        return like.new_zeros(1, *shape)
    half = torch.cat([pilot_noise(shape, like, seed) for seed in range(count // 2)])
    return torch.cat([half, -half])


def _mean(by: Tensor, of: Tensor) -> Tensor:
    """Sum over the first axis of ``of`` (K, B, ...), weighted with ``by`` (K, B)."""
    return (by.reshape(*by.shape, *[1] * (of.ndim - 2)) * of).sum(0)
