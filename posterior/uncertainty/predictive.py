"""Posterior predictive check: do the data look like data that the draws would give? Needs no truth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from posterior.draws import Draws
from posterior.likelihoods import GaussianLikelihood, Likelihood
from posterior.priors.base import Affine
from posterior.uncertainty._statistics import check_level


@dataclass(frozen=True, eq=False)
class ResidualCheck:
    """Residual chi-square of each draw against that of data replicated from it.

    Args:
        chi_square: ||y - A x||^2 / (m sigma^2) of each draw, (S,); about 1 where the noise explains the residual.
        count: Number m of (real) measurements.
        p_value: Posterior predictive probability of a larger residual, P(chi^2(y_rep, x) > chi^2(y, x) | y). Near 0:
            the data do not fit (sigma too small, a wrong operator, a sampler that ignores data). Near 1: they fit too
            well (sigma too large, or noise was fitted). Not uniform if all is right: its values then crowd towards
            1/2, so that a small one counts for more than its size.
        weights: Of the draws, (S,), summing to one; None where all weigh the same.
    """

    chi_square: Tensor
    count: int
    p_value: float
    weights: Tensor | None = None

    @property
    def mean(self) -> float:
        """Mean chi-square of the draws, by their weights."""
        if self.weights is None:
            return float(self.chi_square.mean())
        return float(self.weights @ torch.where(self.weights > 0, self.chi_square, 0.0))

    @property
    def two_sided(self) -> float:
        """Probability of a residual as improbable as this on either side."""
        return min(1.0, 2 * min(self.p_value, 1 - self.p_value))

    def band(self, level: float = 0.95) -> tuple[float, float]:
        """Central interval of the chi-square over m that noise alone gives."""
        from scipy.stats import chi2

        check_level("ResidualCheck.band", level)
        low, high = (float(chi2.ppf(q, self.count)) / self.count for q in ((1 - level) / 2, (1 + level) / 2))
        return low, high

    def passed(self, level: float = 0.01) -> bool:
        """Whether neither tail is below ``level`` / 2."""
        return self.two_sided > level

    def __str__(self) -> str:
        if self.passed():
            verdict = "the noise explains the residuals"
        elif self.p_value < 0.5:
            verdict = "residuals are LARGER than the noise explains"
        else:
            verdict = "residuals are SMALLER than the noise explains"
        low, high = self.band()
        noise = f"{self.count} data (noise gives {low:.3f} to {high:.3f})"
        return f"residual chi-square: {self.mean:.4g} over {noise}, predictive p = {self.p_value:.3g}: {verdict}"


def residual_check(draws: Draws, likelihood: Likelihood) -> ResidualCheck:
    """Compare the residuals of draws with what the noise gives.

    Args:
        draws: Draws, in physical units.
        likelihood: What they were drawn with; Gaussian noise, where the replicated chi-square has a known law.

    Raises:
        TypeError: If the likelihood is not Gaussian.

    References:
        Gelman, Meng, Stern. Posterior predictive assessment of model fitness via realized discrepancies. 1996.
        Statistica Sinica 6(4).
    """
    from scipy.stats import chi2

    if not isinstance(likelihood, GaussianLikelihood):
        raise TypeError(f"residual_check: the likelihood is a {type(likelihood).__name__}; wanted a GaussianLikelihood")
    standard = likelihood.in_standard(Affine(), draws.event_shape)
    y = standard.y
    with torch.no_grad():
        values = torch.cat([standard.chi_square(x[None].to(y)) for x in draws.samples]).cpu().double()
    tails = torch.from_numpy(chi2.sf(values.numpy() * standard.count, standard.count))
    weights = draws.weights.cpu()
    p_value = float(weights @ torch.where(weights > 0, tails, 0.0))
    return ResidualCheck(values, standard.count, p_value, None if draws.log_weights is None else weights)
