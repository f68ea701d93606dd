"""Gibbs sampling of Levy chains under linear-Gaussian data: the gold standard where no closed form exists."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from posterior.priors.levy import LevyPrior, _gamma

CHAINS = 64
BURN_IN = 100
KEPT = 64
THIN = 2
MOVES = 6


@dataclass(frozen=True)
class ChainPosterior:
    """p(x | y) of a Levy chain, known through many long Markov chains.

    Args:
        chains: Kept states (sweeps, chains, d), float64; the chains started from draws of the prior and know nothing of
            each other.
    """

    chains: Tensor

    @property
    def draws(self) -> Tensor:
        """All kept states, (sweeps * chains, d)."""
        return self.chains.flatten(0, 1)

    @property
    def mean(self) -> Tensor:
        """Posterior mean (d,)."""
        return self.draws.mean(0)

    @property
    def std(self) -> Tensor:
        """Marginal posterior standard deviations (d,)."""
        return self.draws.std(0)

    @property
    def rhat(self) -> Tensor:
        """Gelman and Rubin's ratio of pooled to within-chain standard deviation, (d,); near 1 where chains have mixed."""
        n = len(self.chains)
        within = self.chains.var(0).mean(0)
        between = self.chains.mean(0).var(0)
        return (((n - 1) / n * within + between) / within).sqrt()

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """``n`` different kept states (n, d), in random order.

        Raises:
            ValueError: If there are fewer than ``n``.
        """
        if n > len(self.draws):
            raise ValueError(f"ChainPosterior: {n} draws were asked for and {len(self.draws)} are kept")
        g = torch.Generator().manual_seed(seed)
        return self.draws[torch.randperm(len(self.draws), generator=g)[:n]]


def levy_posterior(
    prior: LevyPrior,
    matrix: Tensor,
    y: Tensor,
    variance: Tensor,
    *,
    chains: int = CHAINS,
    burn_in: int = BURN_IN,
    kept: int = KEPT,
    thin: int = THIN,
    seed: int = 0,
) -> ChainPosterior:
    """Gibbs sampling of the increments u, given y = A L u + noise with L the running sum.

    Every law is a scale mixture of normals, u_k ~ N(0, v_k): v_k is constant (Gauss), exponential (Laplace) or
    inverse-gamma (Student), and z_k v_k with a binary z_k (Bernoulli). One sweep draws u given v, which is Gaussian, then
    v given u. The z_k are drawn with u integrated out, else a jump could not die: one by one, then by moving a jump, with
    its v, to any free place at once, so that chains need not pass through states with one jump too many or too few.

    Args:
        prior: The chain.
        matrix: A, (m, d).
        y: Data (m,).
        variance: Noise variance (m,).

    Other arguments:
        chains: Independent chains.
        burn_in: Sweeps that are thrown away.
        kept: States that each chain keeps.
        thin: Sweeps from one kept state to the next.
        seed: Of the chains.

    References:
        Park, Casella. The Bayesian lasso. 2008. J. Am. Stat. Assoc. 103(482).
        Kuo, Mallick. Variable selection for regression models. 1998. Sankhya B 60(1).
    """
    steps = matrix.flip(1).cumsum(1).flip(1) / variance.sqrt()[:, None]  # A L, in units of the noise
    gibbs = _Gibbs(prior, steps, y / variance.sqrt(), chains, torch.Generator().manual_seed(seed))
    kept_states = []
    for sweep in range(burn_in + kept * thin):
        gibbs.sweep()
        if sweep >= burn_in and (sweep - burn_in) % thin == thin - 1:
            kept_states.append(gibbs.u.cumsum(1))
    return ChainPosterior(torch.stack(kept_states))


class _Gibbs:
    """State of all chains: variances v (C, d), indicators z (C, d), increments u (C, d)."""

    def __init__(self, prior: LevyPrior, h: Tensor, w: Tensor, chains: int, g: torch.Generator) -> None:
        self.prior, self.h, self.w, self.g = prior, h, w, g
        self.precision, self.shift = h.T @ h, h.T @ w
        self.size = (chains, prior.d)
        self.sparse = prior.law == "bernoulli-laplace"
        self.v = self._prior_variance()
        self.z = torch.ones(self.size, dtype=torch.bool)
        if self.sparse:
            self.z = self._uniform(*self.size) < prior.rate
        self.u = self._increments()

    def _uniform(self, *size: int) -> Tensor:
        return torch.rand(size, generator=self.g, dtype=torch.float64).clamp_min(1e-300)

    def _prior_variance(self) -> Tensor:
        p = self.prior
        if p.law == "gauss":
            return torch.full(self.size, p.scale**2, dtype=torch.float64)
        if p.law == "student":
            return p.dof / 2 * p.scale**2 / _gamma(p.dof / 2, self.size, self.g)
        return -2 * p.scale**2 * self._uniform(*self.size).log()

    def sweep(self) -> None:
        """One round through all unknowns."""
        if self.sparse:
            self._flip_and_move()
        self.u = self._increments()
        self.v = self._variances()

    def _increments(self) -> Tensor:
        """u given v, z and y: N(0, V) seen through H. In units of sqrt(V) the precision is the identity plus a rest."""
        root = (self.v * self.z).sqrt()
        precision = root[:, :, None] * self.precision * root[:, None] + torch.eye(self.size[1], dtype=torch.float64)
        chol = torch.linalg.cholesky(precision)
        noise = torch.randn(*self.size, 1, generator=self.g, dtype=torch.float64)
        white = torch.linalg.solve_triangular(chol, (root * self.shift)[..., None], upper=False) + noise
        return root * torch.linalg.solve_triangular(chol.mT, white, upper=True)[..., 0]

    def _variances(self) -> Tensor:
        """v given u; where z is 0 nothing is known of it but the prior."""
        p = self.prior
        if p.law == "gauss":
            return self.v
        if p.law == "student":
            return (p.dof * p.scale**2 + self.u**2) / 2 / _gamma((p.dof + 1) / 2, self.size, self.g)
        inverse = self._inverse_gaussian(1 / (self.u / p.scale).abs().clamp_min(1e-12), 1.0)  # of 1 / v in units of the scale
        return torch.where(self.z, p.scale**2 / inverse.clamp_min(1e-14), self._prior_variance())

    def _inverse_gaussian(self, mean: Tensor, shape: float) -> Tensor:
        """Inverse-Gaussian draws (Michael, Schucany, Haas 1976), the smaller root without cancellation."""
        y = torch.randn(self.size, generator=self.g, dtype=torch.float64).square()
        t = mean * y / (2 * shape)
        low = mean / (1 + t + (t * (2 + t)).sqrt())
        return torch.where(self._uniform(*self.size) <= mean / (mean + low), low, mean**2 / low)

    def _flip_and_move(self) -> None:
        """z given v and y, u integrated out; `inverse` is that of the data's covariance, (C, m, m)."""
        m = len(self.w)
        root = self.h * (self.v * self.z).sqrt()[:, None]
        chol = torch.linalg.cholesky(torch.eye(m, dtype=torch.float64) + root @ root.mT)
        inverse = torch.cholesky_inverse(chol)
        prior_odds = math.log(self.prior.rate) - math.log1p(-self.prior.rate) if self.prior.rate < 1 else math.inf
        for k in torch.randperm(self.size[1], generator=self.g).tolist():
            self._flip(inverse, k, prior_odds)
        for _ in range(MOVES):
            self._move(inverse)

    def _flip(self, inverse: Tensor, k: int, prior_odds: float) -> None:
        v, on = self.v[:, k], self.z[:, k].clone()
        mh = inverse @ self.h[:, k]
        a, b = mh @ self.h[:, k], mh @ self.w
        left = torch.where(on, 1 - v * a, 1.0)  # 1 / (1 + v a) of the state without this jump
        gain = _log_gain(v, a / left, b / left)
        z = self._uniform(len(v)) < torch.sigmoid(prior_odds + gain)
        self.z[:, k] = z
        _rank_one(inverse, torch.where(z & ~on, -v / (1 + v * a), torch.where(on & ~z, v / left, 0.0)), mh)

    def _move(self, inverse: Tensor) -> None:
        """One jump of each chain, chosen at random, to a place drawn among its own and the free ones."""
        has = self.z.any(1)
        chain = torch.arange(self.size[0])
        chosen = torch.where(self.z, self._uniform(*self.size), 0.0).argmax(1)
        v = torch.where(has, self.v[chain, chosen], 0.0)
        mh = (inverse @ self.h.T[chosen][..., None])[..., 0]
        a = (mh * self.h.T[chosen]).sum(1)
        _rank_one(inverse, v / (1 - v * a), mh)
        mall = inverse @ self.h
        gain = _log_gain(v[:, None], (mall * self.h).sum(1), torch.einsum("m,cmd->cd", self.w, mall))
        free = ~self.z
        free[chain, chosen] = True
        place = torch.multinomial(torch.softmax(gain.masked_fill(~free, -math.inf), 1), 1, generator=self.g)[:, 0]
        place = torch.where(has, place, chosen)
        # The variance that waited at the new place takes the old one: both are draws of the same prior.
        there, here = self.v[chain, place].clone(), self.v[chain, chosen].clone()
        self.v[chain, chosen], self.v[chain, place] = there, here
        self.z[chain, chosen] = False
        self.z[chain, place] = has
        mh = mall[chain, :, place]
        a = (mh * self.h.T[place]).sum(1)
        _rank_one(inverse, -v / (1 + v * a), mh)


def _rank_one(inverse: Tensor, by: Tensor, column: Tensor) -> None:
    """Adds by c c^T in place, (C, m, m), where ``by`` (C,) is not 0."""
    at = by.nonzero()[:, 0]
    c = column[at]
    inverse[at] += by[at, None, None] * c[:, :, None] * c[:, None]


def _log_gain(v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Log ratio of p(y) with a jump of variance v to that without it: a = h^T M h, b = h^T M w."""
    return 0.5 * (v * b**2 / (1 + v * a) - torch.log1p(v * a))
