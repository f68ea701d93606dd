"""Pseudo-inverse-guided diffusion (PiGDM), with noise."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from posterior.guidance.base import Guidance
from posterior.guidance.linear import response
from posterior.integrators import Estimate, Noise
from posterior.likelihoods import Linearisation
from posterior.linalg import Apply, cg
from posterior.problem import Problem, pilot_noise


@dataclass(frozen=True)
class PiGDMGuidance(Guidance):
    """p(x0 | x) is taken to be N(D, r^2 I) with r^2 = sigma^2 t^2 / (sigma^2 + t^2), t the prior's rms.

    E[x0 | x, y] = D + sigma^2 J^T A^T (R + r^2 A A^T)^-1 (y - A(D)), J = dD/dx, R the noise covariance of the data.

    Where the prior varies by more than t in some directions, as images do in their longest waves, D follows x there nearly one
    to one, and a misfit would be made good sigma^2 / r^2 times over, a share 1 - (sigma' / sigma)^2 of it in a step to sigma'.
    So that no step overshoots, r^2 is at least sigma^2 (1 - (sigma' / sigma)^2) times the largest eigenvalue of J for the
    prior's reference Gaussian. In a white prior, the paper's, this never binds.

    Args:
        iterations: Conjugate-gradient iterations at most.
        tolerance: They stop at this root-mean-square residual, in standard deviations of the noise.
        sampled: Whether the isotropic covariance is offered to integrators that can draw x0 (`Ancestral`), with xi ~ N(0, I)
            and eta ~ N(0, R): the mean above plus r xi - r^2 A^T (R + r^2 A A^T)^-1 (r A xi + eta). Exact at any number of
            steps for a white Gaussian prior, where J = r^2 / sigma^2 I; off in the paper, which uses the mean.

    References:
        Song, Vahdat, Mardani, Kautz. Pseudoinverse-guided diffusion models for inverse problems. ICLR 2023.
    """

    iterations: int = 200
    tolerance: float = 1e-6
    sampled: bool = False

    def __call__(self, problem: Problem, x: Tensor, sigma: float, step: tuple[float, float]) -> Estimate:
        """See `Guidance.__call__`."""
        like, spread = problem.likelihood, problem.prior.rms
        mean, vjp = problem.denoise_with_vjp(x, sigma)
        lin = like.model.linearise(mean)
        start, end = step
        stable = sigma**2 * response(problem, sigma) * (1 - (end / start) ** 2)
        r2 = max(sigma**2 * spread**2 / (sigma**2 + spread**2), stable)
        white = like.reach * like.variance.rsqrt()

        def system(near: Linearisation) -> Apply:
            return lambda u: u + r2 * white * near.jvp(near.vjp(white * u))

        def pilot() -> tuple[Apply, Tensor]:
            field = pilot_noise(problem.event_shape, x)
            near = like.model.linearise(spread * field)
            eta = pilot_noise(tuple(like.y.shape[1:]), x, seed=1)
            return system(near), white * near.jvp(r2**0.5 * field) + like.reach * eta

        stop = self.tolerance * like.count**0.5
        count = problem.iterations_for(("pigdm", sigma, self), pilot, stop, self.iterations)

        def explained(residual: Tensor) -> Tensor:
            return lin.vjp(white * cg(system(lin), white * residual, iterations=count)[0])

        guided = mean + sigma**2 * vjp(explained(like.y - lin.prediction))

        def draw(noise: Noise) -> Tensor:
            xi = r2**0.5 * noise()
            eta = like.variance.sqrt() * noise(tuple(like.y.shape[1:]))
            return guided + xi - r2 * explained(lin.jvp(xi) + eta)

        return Estimate(guided, draw if self.sampled else None)
