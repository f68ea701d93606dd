"""Particles that follow a guide: the step that AFDPS and FKFilter share."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass, replace

from torch import Tensor

from posterior.problem import Problem
from posterior.samplers.smc.core import Particles, PopulationNoise, gain, start
from posterior.samplers.smc.guides import Guide
from posterior.samplers.smc.kernels import denoise_in_chunks
from posterior.samplers.smc.population import ParticleSampler
from posterior.samplers.smc.rejuvenation import metropolis


@dataclass(frozen=True)
class GuidedParticles(ParticleSampler):
    """Particles carry D and log psi; one network call a step.

    The weight of a move is log p(x' | x) - log q(x' | x) + log psi(x') - log psi(x). What the guide expects of it goes
    into the weights before the move, so that resampling spares the particles that are about to be lost (auxiliary
    particle filter; Pitt, Shephard 1999).

    The corrected move adds to x' what D changed by in the step and the kernel does not hold (`ModelKernel.correct`).
    D is the one that the next step takes in any case, computed before the correction.
    """

    _: KW_ONLY
    corrected: bool = True

    @abstractmethod
    def _guide(self, problem: Problem) -> Guide:
        """The guide of one run."""

    def _init(self, problem: Problem, noise: PopulationNoise) -> Particles:
        """See `ParticleSampler._init`."""
        guide = self._guide(problem)
        sigma = self.levels(problem)[0]
        x, log_ratio = guide.start(problem, sigma, noise)
        d = denoise_in_chunks(problem, x, sigma)
        value = guide.log_value(problem, x, d, sigma)
        return start(x, log_ratio + value, (d, value), guide, self.genealogy)

    def _look_ahead(self, problem: Problem, state: Particles, sigma: float, sigma_next: float) -> Particles:
        guide: Guide = state.memory
        d, value = state.carried
        kernel = guide.kernel(problem, state.x, d, sigma, sigma_next)
        expected = guide.expect(problem, kernel, value, (sigma, sigma_next))
        return replace(state, log_weights=gain(state.log_weights, expected - value), carried=(d, expected))

    def _move(self, problem: Problem, state: Particles, sigma: float, sigma_next: float, noise: PopulationNoise) -> Particles:
        guide: Guide = state.memory
        step = sigma, sigma_next
        d, expected = state.carried
        kernel = guide.kernel(problem, state.x, d, *step)
        x = guide.draw(problem, kernel, step, noise)
        log_ratio = guide.log_ratio(problem, kernel, x, step)
        if sigma_next == 0:
            return self._weighed(state, x, (), log_ratio + guide.log_value(problem, x, x, 0.0) - expected)
        fresh = denoise_in_chunks(problem, x, sigma_next)
        x = kernel.correct(x, d, fresh) if self.corrected else x
        value = guide.log_value(problem, x, fresh, sigma_next)
        return self._weighed(state, x, (fresh, value), log_ratio + value - expected)

    @staticmethod
    def _weighed(state: Particles, x: Tensor, carried: tuple[Tensor, ...], change: Tensor) -> Particles:
        return replace(state, x=x, carried=carried, log_weights=gain(state.log_weights, change))

    def _rejuvenate(self, problem: Problem, state: Particles, above: float, sigma: float, noise: PopulationNoise) -> Particles:
        guide: Guide = state.memory
        step = above, sigma
        up = guide.renoise(state.x, sigma, above, noise)
        kernel = guide.kernel(problem, up, denoise_in_chunks(problem, up, above), *step)
        x = guide.draw(problem, kernel, step, noise)
        d = denoise_in_chunks(problem, x, sigma)
        value = guide.log_value(problem, x, d, sigma)
        gained = value + guide.log_ratio(problem, kernel, x, step)
        held = state.carried[1] + guide.log_ratio(problem, kernel, state.x, step)
        kept = metropolis((state.x, *state.carried), (x, d, value), gained - held, noise)
        return replace(state, x=kept[0], carried=kept[1:])
