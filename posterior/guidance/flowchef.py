"""Steering of rectified flows without a gradient of the network (FlowChef)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from posterior.guidance.base import Guidance
from posterior.guidance.linear import response
from posterior.integrators import Estimate
from posterior.linalg import norm
from posterior.problem import Problem, pilot_noise

# Of the 2 beyond which gradient descent diverges.
LIMIT = 1.5


@dataclass(frozen=True)
class FlowChefGuidance(Guidance):
    """A gradient step on the misfit of D, taken on the noised field as if dD/dx were the identity.

    With the prior's rms t as the unit, the flow's time and coordinates are tau = sigma / (t + sigma) and u = (1 - tau) x,
    and the paper's step is u' = u + (tau' - tau) v - scale grad, grad = A^T R^-1 (A(D) - y) / L with L the largest
    eigenvalue of A^T R^-1 A: in units in which gradient descent on the misfit converges for scale < 2. An Euler step moves
    x' by 1 - sigma' / sigma for a unit change of D, so here D is moved by scale grad (1 + sigma' / t) / (1 - sigma' / sigma).

    D follows that step by up to the largest eigenvalue of dD/dx, and the descent diverges where the step is longer than 2 over
    it. The step is 1.5 over it at most, the eigenvalue being that of the prior's reference Gaussian: images vary by many rms in
    their longest waves. In a white prior a scale below 1.2 never comes so far.

    Not calibrated: nothing is random but the start, and the step does not depend on the size of the noise.

    Args:
        scale: The step size. The paper's depends on task and model; its 500 for the mean squared error of a 64 x 64 colour
            image is about 0.08 here.

    References:
        Patel, Wen, Metaxas, Yang. Steering rectified flow models in the vector field for controlled image generation.
        2024. arXiv:2412.00100.
    """

    scale: float = 0.5

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"FlowChef: scale must be positive, got {self.scale}")

    def __call__(self, problem: Problem, x: Tensor, sigma: float, step: tuple[float, float]) -> Estimate:
        """See `Guidance.__call__`."""
        like = problem.likelihood
        mean = problem.denoise(x, sigma)
        lin = like.model.linearise(mean)
        downhill = lin.vjp(like.reach / like.variance * (like.y - lin.prediction))
        start, end = step
        length = min(self.scale * (1 + end / problem.prior.rms), LIMIT / response(problem, sigma))
        return Estimate(mean + length / (1 - end / start) / largest_information(problem, x) * downhill)


def largest_information(problem: Problem, x: Tensor, iterations: int = 30) -> float:
    """Largest eigenvalue of A^T R^-1 A, by power iterations on one fixed field; found once.

    A nonlinear operator is taken at a fixed field of the prior's rms. An eigenvalue of zero (an operator that sees
    nothing) is returned as 1.
    """
    key = ("largest information", x.dtype)
    if key not in problem.memo:
        like = problem.likelihood
        v = pilot_noise(problem.event_shape, x)
        lin = like.model.linearise(problem.prior.rms * v)
        size = norm(v)
        for _ in range(iterations):
            v = lin.vjp(like.reach / like.variance * lin.jvp((v / size.clamp_min(1e-300)).to(x.dtype)))
            size = norm(v)
        problem.memo[key] = float(size) or 1.0
    return problem.memo[key]
