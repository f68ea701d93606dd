"""The Gaussian of fields that were only ever measured in part: expectation-maximisation, the E-step in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posterior.likelihoods import GaussianLikelihood, Likelihood
from posterior.priors.base import Affine
from posterior.priors.covariance import covariance_of
from posterior.priors.reference import EOFReference, GaussianReference

MOST_UNKNOWNS = 4096
CHUNK = 32


@dataclass(frozen=True, eq=False)
class GaussianFit:
    """N(mean, C) of standardised fields, and how the fit went.

    Args:
        mean: (*event).
        covariance: (n, n).
        evidence: Mean log-density of a datum's measurements at the start and after each lap that was kept; without a weight on
            the start it never falls.
    """

    mean: Tensor
    covariance: Tensor
    evidence: list[float] = field(default_factory=list)

    def log_evidence(self, likelihoods: Sequence[Likelihood], affines: Sequence[Affine] | None = None) -> float:
        """Mean log-density of a datum's measurements, of data that were not fitted, say, to choose a weight by."""
        shape = tuple(self.mean.shape)
        data = [Measured.of(like, shape, Affine() if affines is None else affines[i]) for i, like in enumerate(likelihoods)]
        return _expect(data, _Gaussian(self.mean.flatten().numpy(), self.covariance.numpy()))[2] / len(data)

    @property
    def reference(self) -> GaussianReference:
        """The fit as a reference Gaussian."""
        return GaussianReference(self.mean, covariance_of(tuple(self.mean.shape), self.covariance))

    @property
    def eofs(self) -> EOFReference:
        """C alone in its own EOFs, for coordinates from which the mean was taken: what can carry an error spectrum."""
        values, vectors = torch.linalg.eigh(self.covariance)
        floor = 1e-9 * float(values.mean())
        return EOFReference(vectors.flip(1), values.flip(0).clamp_min(floor), floor, tuple(self.mean.shape))


def fit_gaussian(
    likelihoods: Sequence[Likelihood],
    event_shape: tuple[int, ...],
    affines: Sequence[Affine] | None = None,
    *,
    laps: int = 30,
    start: float | Tensor = 1.0,
    weight: float = 0.0,
    accelerate: bool = True,
    progress: Callable[[int, float], None] | None = None,
) -> GaussianFit:
    """Maximise sum_i log N(y_i; A_i mu, A_i C A_i^T + R_i) over mu and C.

    Given y_i a field is Gaussian with mean m_i = mu + K_i (y_i - A_i mu) and covariance V_i = (I - K_i A_i) C,
    K_i = C A_i^T (A_i C A_i^T + R_i)^-1; the M-step is mu = mean m_i, C = mean of V_i + (m_i - mu)(m_i - mu)^T.

    Two laps and the squared extrapolation of what they did make a cycle (SQUAREM, step length S3, changes of C measured in
    units of C); what lowers the objective is not kept, so that this too never loses.

    Args:
        likelihoods: One for each field that was measured: linear operators, independent Gaussian noise. Operators may
            differ from field to field; together they must see every pair of unknowns, or what is unseen stays as it began.
        event_shape: Shape of a field, at most 4096 unknowns.
        affines: Standardised to physical coordinates of each field; the identity where None.

    Other arguments:
        laps: Of expectation and maximisation, those that were not kept included.
        start: Covariance (n, n) that it begins with, standardised, or the variance of a white one. The less is seen of a
            field the more laps a poor start takes.
        weight: How many fields the start counts for: C is the mode under an inverse Wishart law around it, which few data
            need (`fit_kernel` gives a start that deserves it); 0 for maximum likelihood.
        accelerate: Whether to extrapolate.
        progress: Called with the number of laps done and the mean evidence.

    Returns:
        The fit.

    Raises:
        ValueError: If there are no data, a likelihood is not linear and Gaussian, there are too many unknowns, ``start`` is no
            covariance of them, or ``affines`` does not fit the data.

    References:
        Dempster, Laird, Rubin. Maximum likelihood from incomplete data via the EM algorithm. 1977. J. R. Stat. Soc. B 39(1).
        Varadhan, Roland. Simple and globally convergent methods for accelerating the convergence of any EM algorithm. 2008.
            Scand. J. Stat. 35(2) (SQUAREM).
    """
    n = math.prod(event_shape)
    if not likelihoods or n > MOST_UNKNOWNS:
        raise ValueError(f"fit_gaussian: {len(likelihoods)} data of {n} unknowns; wanted data, and {MOST_UNKNOWNS} at most")
    if laps < 0 or (affines is not None and len(affines) != len(likelihoods)):
        got = f"{laps} laps over {len(likelihoods)} data, {'no' if affines is None else len(affines)} affine maps"
        raise ValueError(f"fit_gaussian: {got}; wanted 0 laps or more, and a map for each of the data or none")
    first = _start(start, n)
    data = [Measured.of(like, event_shape, Affine() if affines is None else affines[i]) for i, like in enumerate(likelihoods)]
    best, objective = _Gaussian(np.zeros(n), first), -math.inf
    proposed, cycle, evidence = best, [best], []
    for lap in range(laps + 1):
        means, spread, total = _expect(data, proposed)
        reached = total + proposed.log_prior(first, weight)
        if reached < objective:  # an extrapolation that went too far: on from the last lap
            proposed, cycle = best, [best]
            if lap == laps:
                break
            continue
        objective = reached
        evidence.append(total / len(data))
        if progress is not None:
            progress(lap, evidence[-1])
        if lap == laps:
            best = proposed
            break
        best = _maximise(means, spread, first, weight)
        cycle.append(best)
        proposed = best
        if accelerate and len(cycle) == 3:
            proposed = _extrapolate(*cycle)
            cycle = [proposed]
    fitted = torch.from_numpy(best.mean).reshape(event_shape)
    return GaussianFit(fitted, torch.from_numpy(best.cov), evidence)


def _start(given: float | Tensor, n: int) -> np.ndarray:
    start = torch.as_tensor(given, dtype=torch.float64).detach().cpu()
    first = (start * torch.eye(n, dtype=torch.float64) if start.ndim == 0 else start).numpy().copy()
    wanted = "a variance above zero or a positive definite covariance"
    if first.shape != (n, n):
        raise ValueError(f"fit_gaussian: start has shape {first.shape}; wanted {wanted} ({n}, {n})")
    try:
        np.linalg.cholesky(first)
    except np.linalg.LinAlgError:
        raise ValueError(f"fit_gaussian: start is not positive definite; wanted {wanted}") from None
    return first


@dataclass(frozen=True, eq=False)
class _Gaussian:
    """N(mean, cov), (n,) and (n, n)."""

    mean: np.ndarray
    cov: np.ndarray

    def log_prior(self, centre: np.ndarray, weight: float) -> float:
        """Log-density of the inverse Wishart law that ``weight`` fields of covariance ``centre`` leave, up to a constant."""
        if weight == 0:
            return 0.0
        from scipy.linalg import cho_factor, cho_solve

        factor = cho_factor(self.cov, lower=True)
        return -weight * (np.log(np.diag(factor[0])).sum() + 0.5 * np.trace(cho_solve(factor, centre)))


def _maximise(means: np.ndarray, spread: np.ndarray, centre: np.ndarray, weight: float) -> _Gaussian:
    mean, count = means.mean(0), len(means)
    away = means - mean
    cov = (count * spread + away.T @ away + weight * centre) / (count + weight)
    return _Gaussian(mean, (cov + cov.T) / 2)


def _extrapolate(zero: _Gaussian, one: _Gaussian, two: _Gaussian) -> _Gaussian:
    """zero + 2 a r + a^2 v with r = one - zero, v = two - one - r, and a = |r| / |v|, halved towards 1 until C is positive.

    At a = 1 it is ``two``.
    """
    from scipy.linalg import cholesky, solve_triangular

    root = cholesky(two.cov, lower=True)

    def size(m: np.ndarray) -> float:
        half = solve_triangular(root, m, lower=True)
        return float(np.linalg.norm(solve_triangular(root, half.T, lower=True)))

    r = _Gaussian(one.mean - zero.mean, one.cov - zero.cov)
    v = _Gaussian(two.mean - one.mean - r.mean, two.cov - one.cov - r.cov)
    length = size(r.cov) / max(size(v.cov), 1e-300)
    while length > 1.01:
        mean, cov = (getattr(zero, k) + 2 * length * getattr(r, k) + length**2 * getattr(v, k) for k in ("mean", "cov"))
        try:
            cholesky(cov)
        except np.linalg.LinAlgError:
            length = (length + 1) / 2
        else:
            return _Gaussian(mean, cov)
    return two


@dataclass(frozen=True, eq=False)
class Measured:
    """What one instrument saw of a standardised field: sparse A (m, n), y - A 0 and R, (m,)."""

    matrix: Any
    values: np.ndarray
    variance: np.ndarray

    @staticmethod
    def of(likelihood: Likelihood, event_shape: tuple[int, ...], affine: Affine) -> Measured:
        from scipy.sparse import csr_matrix

        standard = likelihood.in_standard(affine, event_shape)
        if not isinstance(likelihood, GaussianLikelihood) or not standard.model.linear:
            name = f"{type(likelihood).__name__} of {type(likelihood.operator).__name__}"
            raise ValueError(f"fit_gaussian: got a {name}; wanted a GaussianLikelihood of a linear operator")
        n = math.prod(event_shape)
        seen = standard.reach.flatten()
        zero = torch.zeros(1, *event_shape, dtype=standard.y.dtype)
        with torch.no_grad():
            rows = [standard.model.apply(part.reshape(-1, *event_shape)).flatten(1)[:, seen] for part in _basis(n, zero)]
            offset = (standard.y - standard.model.predict(zero)).flatten()[seen]
        matrix = csr_matrix(torch.cat(rows).T.numpy())
        return Measured(matrix, offset.numpy(), standard.variance.flatten()[seen].numpy())


def _basis(n: int, like: Tensor) -> Sequence[Tensor]:
    return torch.eye(n, dtype=like.dtype).split(512)


def _expect(data: Sequence[Measured], law: _Gaussian) -> tuple[np.ndarray, np.ndarray, float]:
    """Posterior means (N, n), the mean posterior covariance (n, n), and the summed log-evidence."""
    from scipy.linalg import cholesky, solve_triangular

    mean, cov = law.mean, law.cov
    means, known, total = np.empty((len(data), len(mean))), np.zeros_like(cov), 0.0
    halves: list[np.ndarray] = []
    for i, d in enumerate(data):
        crossed = d.matrix @ cov
        inner = d.matrix @ crossed.T + np.diag(d.variance)
        root = cholesky(inner, lower=True, check_finite=False)
        half = solve_triangular(root, crossed, lower=True, check_finite=False)
        white = solve_triangular(root, d.values - d.matrix @ mean, lower=True, check_finite=False)
        means[i] = mean + half.T @ white
        total -= 0.5 * (white @ white + len(white) * math.log(2 * math.pi)) + np.log(np.diag(root)).sum()
        halves.append(half)
        if len(halves) == CHUNK or i + 1 == len(data):
            stacked = np.concatenate(halves)
            known += stacked.T @ stacked
            halves.clear()
    return means, cov - known / len(data), float(total)
