"""Approximation-free diffusion posterior sampling (AFDPS)."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal

from posterior.likelihoods import StandardLikelihood
from posterior.problem import Problem
from posterior.samplers.smc.core import Particles, PopulationNoise
from posterior.samplers.smc.guided import GuidedParticles
from posterior.samplers.smc.guides import GradientGuide, Guide, LinearGuide, OutlookGuide, ReferenceGuide
from posterior.samplers.smc.kernels import denoise_in_chunks
from posterior.samplers.smc.measurements import LARGEST_DENSE, LARGEST_JACOBIAN
from posterior.samplers.smc.rejuvenation import langevin

Variant = Literal["sde", "ode"]


@dataclass(frozen=True)
class AFDPS(GuidedParticles):
    """Sequential Monte Carlo on the targets p_sigma(x) psi_sigma, with weights that need no derivative of the network.

    Exact for any prior and likelihood as particles and steps go to infinity. From the paper: the sequence of targets, whose
    psi_sigma is a tempered likelihood, psi_0 = p(y | x0); reverse dynamics driven by its gradient, stochastic ("sde") or
    deterministic ("ode"); weights that make up for the difference; Langevin corrections; no vector-Jacobian products.

    Ours: discrete steps have exact importance weights,

        log w <- log w + log p(x' | x) - log q(x' | x) + log psi_sigma'(x') - log psi_sigma(x),

    in place of an Euler step of the weights' own equation, so that neither small steps nor Laplacians are needed. psi is
    tempered by the covariance C_sigma of x0 given x in the prior's reference Gaussian, the move p draws x0 from
    N(D, C_sigma), and psi looks at D where the paper's looks at x. For a linear operator with at most 1024 data q is p
    given y, in closed form, and the weights of a Gaussian prior are constant at any number of steps. For a nonlinear operator
    with at most 64 data psi is an `Outlook`; other operators and likelihoods are tempered by a power. Both are followed by
    their gradient (see `guides`). Where the prior carries no reference Gaussian N(0, rms^2 I) stands in.

    One network call a step, two more for each rejuvenation move and one for each correction.

    Args:
        steps: Steps from the first noise level to 0.

    Other arguments:
        variant: "sde"; or "ode", the flow of p_sigma and corrections at every level.
        denoised: Whether psi looks at the network's D(x), more telling where the prior has modes, or at the reference
            Gaussian's. Where None, at D unless there are corrections, which need the gradient of psi.
        gamma: Tempering: psi has the covariance R + gamma^2 A C_sigma A^T, or what corresponds (`GradientGuide`).
        corrections: Langevin steps at every level; where None 0, or 1 for "ode". They are not adjusted, and bias the
            log-evidence where psi is steep.
        step_size: Of a Langevin step, in sigma^2.
        probes: Random directions by which the curvature of a likelihood is measured that is not linear Gaussian.
        corrected: Whether moves keep the variance of x0 given x, at no cost (see `GuidedParticles`).
        ess_threshold, resampling, rejuvenation, genealogy, schedule, sigma_max, sigma_min, particles_per_draw: See
            `ParticleSampler`.

    Raises:
        ValueError: If an argument is out of range or unknown, or ``denoised`` is asked for along with corrections.

    References:
        Chen, Ren, Min, Ying, Izzo. Solving inverse problems via diffusion-based priors: an approximation-free ensemble
        sampling approach. 2025. arXiv:2506.03979.
    """

    steps: int = 400
    _: KW_ONLY
    ess_threshold: float = 0.9
    rejuvenation: int = 1
    variant: Variant = "sde"
    denoised: bool | None = None
    gamma: float = 1.0
    corrections: int | None = None
    step_size: float = 0.1
    probes: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in Variant.__args__:
            raise ValueError(f"AFDPS: variant must be one of {Variant.__args__}, got {self.variant!r}")
        if self.corrections is not None and self.corrections < 0:
            raise ValueError(f"AFDPS: corrections must not be negative, got {self.corrections}")
        for name in ("gamma", "step_size", "probes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"AFDPS: {name} must be positive, got {getattr(self, name)}")
        if self.denoised and self._corrections > 0:
            raise ValueError("AFDPS: corrections need the gradient of psi, which is that of the network at denoised=True")

    @property
    def _corrections(self) -> int:
        return int(self.variant == "ode") if self.corrections is None else self.corrections

    def _guide(self, problem: Problem) -> Guide:
        like = problem.likelihood
        denoised = self._corrections == 0 if self.denoised is None else self.denoised
        gaussian = type(like).log_density is StandardLikelihood.log_density
        if like.model.linear and gaussian and like.count <= LARGEST_DENSE:
            return LinearGuide(problem, self.gamma, denoised)
        if not like.model.linear and 0 < like.count <= LARGEST_JACOBIAN:
            return OutlookGuide(problem, self.gamma, denoised)
        return GradientGuide(problem, self.gamma, denoised, self.probes)

    def _look_ahead(self, problem: Problem, state: Particles, sigma: float, sigma_next: float) -> Particles:
        return state if self.variant == "ode" else super()._look_ahead(problem, state, sigma, sigma_next)

    def _move(self, problem: Problem, state: Particles, sigma: float, sigma_next: float, noise: PopulationNoise) -> Particles:
        move = self._flow if self.variant == "ode" else super()._move
        state = move(problem, state, sigma, sigma_next, noise)
        if sigma_next > 0:
            for _ in range(self._corrections):
                state = self._correct(problem, state, sigma_next, noise)
        return state

    def _flow(self, problem: Problem, state: Particles, sigma: float, sigma_next: float, noise: PopulationNoise) -> Particles:
        """A step of the probability-flow ODE, which takes p_sigma to p_sigma' and needs no weight of its own."""
        guide: Guide = state.memory
        d, value = state.carried
        x = d + sigma_next / sigma * (state.x - d)
        if sigma_next == 0:
            return self._weighed(state, x, (), guide.log_value(problem, x, x, 0.0) - value)
        fresh = denoise_in_chunks(problem, x, sigma_next)
        h = math.log(sigma / sigma_next)
        # D taken as linear in log sigma: the second order of the step.
        x = x + (h - 1 + math.exp(-h)) / h * (fresh - d) if self.corrected else x
        after = guide.log_value(problem, x, fresh, sigma_next)
        return self._weighed(state, x, (fresh, after), after - value)

    def _correct(self, problem: Problem, state: Particles, sigma: float, noise: PopulationNoise) -> Particles:
        """A Langevin step on p_sigma psi_sigma; the weights stay."""
        guide: ReferenceGuide = state.memory
        slope = (state.carried[0] - state.x) / sigma**2 + guide.slope(problem, state.x, sigma)
        x = langevin(state.x, slope, self.step_size * sigma**2, noise)
        d = denoise_in_chunks(problem, x, sigma)
        return replace(state, x=x, carried=(d, guide.log_value(problem, x, d, sigma)))
