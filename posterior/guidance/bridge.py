"""Guidance by the covariance of a reference Gaussian, which can also be drawn from."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from posterior.guidance.base import Guidance
from posterior.guidance.estimation import reference_of
from posterior.guidance.linear import gaussian_draw, prior_mean
from posterior.guidance.solves import explain, explain_dearly
from posterior.guidance.tails import judged
from posterior.integrators import Estimate, Noise
from posterior.likelihoods import Linearisation
from posterior.linalg import Apply
from posterior.priors.covariance import Covariance, ScaledCovariance
from posterior.problem import Problem, pilot_noise

SINGLE_TOLERANCE = 5e-3
# Multiplications by the posterior covariance that find its largest eigenvalue: the fifth is within some ten per cent.
WIDEST = 5


@dataclass(frozen=True)
class BridgeGuidance(Guidance):
    """p(x0 | x) is taken to be N(D, C_s), C_s the average covariance of x0 given x_sigma that the prior carries.

    A draw of x0 given x and y follows by Matheron's rule, without a backward pass: with xi ~ N(0, C_s), eta ~ N(0, R),

        x0 = D + xi + C_s A^T (A C_s A^T + R)^-1 (y - A(D + xi) - eta).

    Exact at any number of steps where the prior is Gaussian and the data are linear with Gaussian noise. A prior that carries a
    `LocalSpread` has in place of C_s a covariance that depends on D: wide where, and in which direction, such a D tends to be
    wrong. If that has ``tails``, what the data say of where D is wrong counts too: see `posterior.guidance.tails.judged`.

    **The network's Jacobian.** By Tweedie's formula the covariance of x0 given x is sigma^2 J, J = dD/dx. It knows this x; C_s
    knows how much such a network errs. With ``jacobian`` the average of the two takes the place of C_s in the gain, while xi
    is drawn as before,

        x0 = D + xi + M A^T (A M A^T + R)^-1 (y - A(D + xi) - eta),    M = (C_s + sigma^2 J) / 2,

    whose covariance (I - K A) C_s (I - K A)^T + K R K^T with K = M A^T (A M A^T + R)^-1 is right for any K if C_s is (Joseph's
    form). A backward pass a Krylov iteration.

    **Gross errors.** Student's law and the outlier mixture are Gaussian given one variance for each datum. Those are drawn
    given y - A(x0) of the last x0, and then x0 given them: a sweep of Gibbs sampling, which leaves p(x0, variances | x, y) as
    it is. The sweeps of the start bring the two into step, and each later step needs one only, since x' is drawn from x0. So
    this too is exact where the prior is Gaussian, but for the start, whose chain is finite.

    **Nonlinear operators and counts.** The operator is replaced by a line, at first at D and then at the mean that follows,

        z <- D + C_s A_z^T (A_z C_s A_z^T + R)^-1 (y - A(z) - A_z (D - z)),

    Gauss-Newton for the mode of p(x0 | x, y), as often as ``relinearise`` says; and the draw is that of the last line: a
    Laplace approximation, for each draw around its own mode. For counts R is the variance at A(z), which makes it Fisher
    scoring. Approximate: `TDS` is not.

    Args:
        iterations: Conjugate-gradient iterations at most, in coordinates in which C_s is the identity.
        tolerance: They stop once x0 is right to this many standard deviations of C_s, root-mean-square; in float32,
            whose rounding goes no further, at 5e-3 or this, whichever is larger.
        relinearise: Gauss-Newton steps where the operator is not linear or the noise depends on the field; each costs a
            linear solve and no network call.
        sweeps: Gibbs sweeps at the start where data may be grossly wrong; each costs a linear solve.
        corrected: Whether C_s is the average covariance with the prior's `SpreadCorrection`.
        local: Whether C_s knows where in the field, and along which direction of a complex image, the denoiser errs, where the
            prior carries a `LocalSpread`.
        adaptive: Whether data may widen and narrow that covariance, where the `LocalSpread` has ``tails``; a linear solve more.
        jacobian: Krylov iterations with M, from what C_s says; 0 for C_s alone. A step makes two vector-Jacobian products more
            than these.

    A prior without a reference Gaussian gets one from draws of its own, see `estimate_reference`.

    Raises:
        ValueError: If ``relinearise``, ``sweeps`` or ``jacobian`` is negative; if ``corrected``, but the prior carries no
            correction, or one that did not help the fields that it was validated on.

    References:
        Matheron's rule: Journel, Huijbregts. Mining geostatistics. 1978.
        Tweedie's covariance in the gain: Rozet, Andry, Lanusse, Louppe. Learning diffusion priors from observations by
            expectation maximization. NeurIPS 2024. arXiv:2405.13712.
        Scale mixtures: Andrews, Mallows. Scale mixtures of normal distributions. 1974. J. R. Stat. Soc. B 36(1).
    """

    iterations: int = 200
    tolerance: float = 1e-3
    relinearise: int = 3
    sweeps: int = 10
    corrected: bool = False
    local: bool = True
    adaptive: bool = True
    jacobian: int = 0

    def __post_init__(self) -> None:
        for name in ("relinearise", "sweeps", "jacobian"):
            if getattr(self, name) < 0:
                raise ValueError(f"GaussianBridge: {name} must not be negative, got {getattr(self, name)}")

    def covariance(self, problem: Problem, sigma: float) -> Covariance:
        """C_s, the same everywhere in the field."""
        reference = reference_of(problem)
        if not self.corrected:
            return reference.error_covariance(problem.event_shape, sigma)
        spread, name = problem.prior.spread, problem.prior.name
        if spread is None or not spread.validated:
            what = "carries no correction of the spread" if spread is None else "carries a correction that did not help"
            raise ValueError(f"GaussianBridge: corrected=True, but prior '{name}' {what}; see fit_spread_correction")
        return spread.error_covariance(reference, problem.event_shape, sigma)

    def given(self, problem: Problem, sigma: float, d: Tensor) -> Covariance | ScaledCovariance:
        """C_s given D, ``d``."""
        local = problem.prior.local_spread
        if local is None or self.corrected or not self.local:
            return self.covariance(problem, sigma)
        return local.covariance(d, sigma, self._typical(problem, d))

    def tails(self, problem: Problem) -> float | None:
        """kappa of the prior's local spread, where it has one and may follow the data."""
        local = problem.prior.local_spread
        return None if local is None or self.corrected or not (self.local and self.adaptive) else local.tails

    def _typical(self, problem: Problem, like: Tensor) -> Tensor:
        """The mean of the reference Gaussian's own posterior, (1, *event): a field that depends on no draw."""
        key = ("typical field", self)
        if key not in problem.memo:
            problem.memo[key] = self._start(problem, like[:1]).mean()
        return problem.memo[key]

    def widest(self, problem: Problem) -> float:
        """Largest standard deviation of the reference Gaussian's own posterior, over all directions of a field.

        By power iteration from white noise, hence from below; the operator is replaced by its line at the posterior mean.
        """
        key = ("widest", self)
        if key not in problem.memo:
            v = pilot_noise(problem.event_shape, problem.likelihood.y)
            given = self._start(problem, v)
            variance = torch.zeros(())
            for _ in range(WIDEST):
                v = given.covariance(v / torch.linalg.vector_norm(v, dtype=torch.float64))
                variance = torch.linalg.vector_norm(v, dtype=torch.float64)
            problem.memo[key] = float(variance) ** 0.5
        return problem.memo[key]

    def _start(self, problem: Problem, like: Tensor) -> _Conditional:
        """The reference Gaussian given the data, for fields like ``like``."""
        reference = reference_of(problem)
        mean = prior_mean(problem, like, reference)
        return _Conditional(self, problem, "start", mean, reference.covariance(problem.event_shape))

    def start(self, problem: Problem, sigma: float, noise: Noise) -> Tensor:
        """A draw of the reference Gaussian's own posterior, noised: right at any ``sigma`` where the prior is Gaussian."""
        return self.first(problem, noise) + sigma * noise()

    def first(self, problem: Problem, noise: Noise) -> Tensor:
        """A draw of the reference Gaussian's own posterior."""
        white = noise()
        given = self._start(problem, white)
        x0 = given.draw(noise, white, None)
        if problem.likelihood.stand_in == "mixture":
            given.unsure = False
            for _ in range(self.sweeps):
                x0 = given.draw(noise, noise(), x0)
        return x0

    def __call__(
        self, problem: Problem, x: Tensor, sigma: float, step: tuple[float, float], last: Tensor | None = None
    ) -> Estimate:
        """See `Guidance.__call__`.

        Args:
            problem: Prior and likelihood.
            x: Noised fields (B, *event).
            sigma: Their noise level.
            step: The noise levels between which the integrator is stepping.
            last: The x0 that ``x`` was drawn from, of which the variances of gross errors are drawn; D where None.
        """
        if not self.jacobian:
            d = problem.denoise(x, sigma)
            given = _Conditional(self, problem, sigma, d, self.given(problem, sigma, d))
        else:
            d, vjp = problem.denoise_with_vjp(x, sigma)
            given = _Conditional(self, problem, sigma, d, self.given(problem, sigma, d), lambda v: sigma**2 * vjp(v))
        kappa = self.tails(problem)
        if kappa is not None:
            given.adapt(kappa)
        return Estimate(given.mean, lambda noise: given.draw(noise, noise(), last))


class _Conditional:
    """p(x0 | y) for x0 ~ N(D, C); ``tweedie`` is sigma^2 J of fields."""

    def __init__(
        self,
        settings: BridgeGuidance,
        problem: Problem,
        key: Hashable,
        d: Tensor,
        cov: Covariance | ScaledCovariance,
        tweedie: Apply | None = None,
    ) -> None:
        self.problem, self.like = problem, problem.likelihood
        self.key, self.d, self.cov = (key, settings), d, cov
        tolerance = settings.tolerance if d.dtype == torch.float64 else max(settings.tolerance, SINGLE_TOLERANCE)
        # The start is noised at once, which drowns what a rough solve leaves.
        self.limits = settings.iterations, tolerance * (5 if key == "start" else 1)
        self.jacobian, self.tweedie = settings.jacobian, tweedie
        self.lin, self.prediction = self._line(d)
        # A(D) says little of the noise before the data have spoken.
        self.unsure = self.like.stand_in == "local" or key == "start"
        if not self.like.model.linear or self.like.stand_in == "local":
            for _ in range(settings.relinearise):
                # without network calls
                self.lin, self.prediction = self._line(self.d + self._added(self._variance(None, None)))
                self.unsure = key == "start" and self.like.stand_in == "mixture"

    def adapt(self, kappa: float) -> None:
        """Let the data have their say on a local C; see `judged`."""
        assert isinstance(self.cov, ScaledCovariance)
        residual, variance = self.like.y - self.prediction, self._variance(None, None)
        self.cov = judged(self.problem, self.key, self.lin, self.cov, residual, *self.limits, variance, kappa)
        self.key = ("adapted", self.key)

    def mean(self) -> Tensor:
        """Mean of x0 given the data; with gross errors, as if each datum had its expected precision."""
        variance = self._variance(None, None)
        added = self._added(variance)
        return self.d + (added if self.tweedie is None else self._refined(self.like.y - self.prediction, added, variance))

    def _added(self, variance: Tensor | None) -> Tensor:
        """What data add to D with C."""
        return explain(self.problem, self.key, self.lin, self.cov, self.like.y - self.prediction, *self.limits, variance)

    def covariance(self, v: Tensor) -> Tensor:
        """The covariance of x0 given the data, of fields ``v``; with gross errors as in `mean`."""
        spread = self.cov.apply(v)
        seen = self.lin.jvp(spread)
        return spread - explain(self.problem, self.key, self.lin, self.cov, seen, *self.limits, self._variance(None, None))

    def draw(self, noise: Noise, white: Tensor, last: Tensor | None) -> Tensor:
        """A draw of x0 given the data; ``white`` becomes xi, and variances of gross errors are drawn given ``last``."""
        variance = self._variance(last, noise)
        refine = None if self.tweedie is None else self._refined
        about: dict[str, Any] = {"prediction": self.prediction, "variance": variance, "refine": refine}
        return gaussian_draw(self.problem, self.key, self.lin, self.d, self.cov, white, noise, *self.limits, **about)

    def _refined(self, residual: Tensor, added: Tensor, variance: Tensor | None) -> Tensor:
        """What data add with the average of C and sigma^2 J in place of C, with which they add ``added``."""
        assert self.tweedie is not None
        tweedie = self.tweedie

        def average(v: Tensor) -> Tensor:
            return (self.cov.apply(v) + tweedie(v)) / 2

        return explain_dearly(self.problem, self.lin, average, residual, added, self.jacobian, variance=variance)

    def _line(self, z: Tensor) -> tuple[Linearisation, Tensor]:
        """The operator near ``z``, and what this line says at D."""
        lin = self.like.model.linearise(z)
        return lin, lin.prediction if z is self.d else lin.prediction + lin.jvp(self.d - z)

    def _variance(self, last: Tensor | None, noise: Noise | None) -> Tensor | None:
        """Variances of the noise; None for those of the likelihood."""
        if self.like.stand_in == "exact" or self.unsure:
            return None
        if self.like.stand_in == "local":
            return self.like.noise_variance(self.lin.prediction)
        seen = self.prediction if last is None else self.like.model.predict(last)
        if noise is None:
            return self.like.noise_variance(seen)
        uniform = torch.special.ndtr(noise(tuple(self.like.y.shape[1:])).double())
        return self.like.noise_variance(seen, uniform)
