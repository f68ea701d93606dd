"""Single-chain samplers: a guidance, an integrator and a grid of noise levels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from posterior.guidance.base import Guidance
from posterior.guidance.ddnm import DDNMGuidance
from posterior.guidance.ddrm import DDRMGuidance
from posterior.guidance.diffpir import DiffPIRGuidance
from posterior.guidance.dps import DPSGuidance
from posterior.guidance.flowchef import FlowChefGuidance
from posterior.guidance.mmps import MMPSGuidance
from posterior.guidance.pigdm import PiGDMGuidance
from posterior.guidance.tmpd import TMPDGuidance
from posterior.integrators import DDIM, Ancestral, DPMSolver2M, Integrator, Noise, Renoise, SASolver
from posterior.problem import Problem
from posterior.samplers.base import Sampler, State
from posterior.schedules import Karras, Schedule


@dataclass(frozen=True)
class Guided(Sampler):
    """Any guidance with any integrator.

    Args:
        guidance: What conditions the denoiser.
        integrator: What moves x.
        steps: Steps from sigma_max to 0.
        schedule: How the noise levels are spaced; by `Karras` where None.

    Other arguments:
        sigma_max: First noise level, the prior's own where None (standardised units).
        sigma_min: Last noise level before 0, likewise.
        equivariant: Whether a prior with symmetries is asked of fields in another orientation at each step (`Prior.oriented`),
            so that what its network errs by in one does not add up. Not for integrators that compare neighbouring levels.

    Raises:
        TypeError: If integrator or schedule is a class or a name.
        ValueError: If ``steps`` is not positive.
    """

    guidance: Guidance
    integrator: Integrator
    steps: int
    schedule: Schedule | None = Karras()
    sigma_max: float | None = None
    sigma_min: float | None = None
    equivariant: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"{type(self).__name__}: steps must be at least 1, got {self.steps}")
        for name, value in (("integrator", self.integrator), ("schedule", self.schedule)):
            if isinstance(value, str | type):
                shown = value.__name__ if isinstance(value, type) else repr(value)
                raise TypeError(f"{type(self).__name__}: {name} is {shown}; wanted an object, such as Heun() or Karras()")

    def levels(self, problem: Problem) -> list[float]:
        """The noise levels of this problem, ``steps + 1`` of them."""
        top = self.sigma_max if self.sigma_max is not None else problem.prior.sigma_max
        low = self.sigma_min if self.sigma_min is not None else problem.prior.sigma_min
        return self._spacing(problem)(self.steps, top, low)

    def _spacing(self, problem: Problem) -> Schedule:
        """How the noise levels of this problem are spaced."""
        return self.schedule or Karras()

    def init(self, problem: Problem, noise: Noise) -> State:
        """See `Sampler.init`."""
        return State(self.guidance.start(problem, self.levels(problem)[0], noise))

    def step(self, problem: Problem, state: State, noise: Noise) -> tuple[State, dict[str, float]]:
        """See `Sampler.step`."""
        levels = self.levels(problem)
        sigma, sigma_next = levels[state.index], levels[state.index + 1]
        denoiser = partial(self.guidance, self._oriented(problem, state))
        x, memory = self.integrator.step(denoiser, state.x, sigma, sigma_next, noise, state.memory)
        return replace(state, x=x, index=state.index + 1, memory=memory), {"sigma": sigma_next}

    def _oriented(self, problem: Problem, state: State) -> Problem:
        """The problem as this step sees it."""
        return replace(problem, prior=problem.prior.oriented(state.index)) if self.equivariant else problem


class DPS(Guided):
    """Diffusion posterior sampling; see `DPSGuidance`. One network call and one vector-Jacobian product a step.

    Args:
        steps: Steps from sigma_max to 0.
        zeta: The paper's step size, which it tunes to the task; the noise of the data has no part in it.

    Other arguments:
        integrator: What moves x; `Ancestral` where None.
        schedule, sigma_max, sigma_min: See `Guided`; spaced by `Karras` where None.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Chung, Kim, Mccann, Klasky, Ye. Diffusion posterior sampling for general noisy inverse problems. ICLR 2023.
        arXiv:2209.14687.
    """

    def __init__(
        self,
        steps: int = 1000,
        *,
        zeta: float = 1.0,
        integrator: Integrator | None = None,
        schedule: Schedule | None = None,
        sigma_max: float | None = None,
        sigma_min: float | None = None,
    ) -> None:
        super().__init__(DPSGuidance(zeta), integrator or Ancestral(), steps, schedule or Karras(), sigma_max, sigma_min)


class PiGDM(Guided):
    """Pseudo-inverse guidance; see `PiGDMGuidance`. One network call and one vector-Jacobian product a step.

    Args:
        steps: Steps from sigma_max to 0.

    Other arguments:
        iterations: Conjugate-gradient iterations at most, of the linear solve of a step.
        sampled: Whether x0 is drawn, where the integrator can, in place of its mean; the paper takes the mean.
        integrator: What moves x; `Ancestral` where None.
        schedule, sigma_max, sigma_min: See `Guided`; spaced by `Karras` where None.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Song, Vahdat, Mardani, Kautz. Pseudoinverse-guided diffusion models for inverse problems. ICLR 2023.
    """

    def __init__(
        self,
        steps: int = 100,
        *,
        iterations: int = 200,
        sampled: bool = False,
        integrator: Integrator | None = None,
        schedule: Schedule | None = None,
        sigma_max: float | None = None,
        sigma_min: float | None = None,
    ) -> None:
        guidance = PiGDMGuidance(iterations, sampled=sampled)
        super().__init__(guidance, integrator or Ancestral(), steps, schedule or Karras(), sigma_max, sigma_min)


class MMPS(Guided):
    """Moment-matching posterior sampling; see `MMPSGuidance`.

    One network call and ``iterations + 2`` vector-Jacobian products a step, one less without a reference. The default
    integrator adds as much noise as the length of a step allows, see `SASolver`: where the posterior has several modes, the
    approximation chooses wrongly among them at high noise levels and better at lower ones, and noise lets a chain change
    over. With the exact posterior denoiser of a Gaussian prior the standard deviation comes out 2 to 3 % too large at 64
    steps, within 5 % from 24 on; `DPMSolver2M`, the probability-flow ODE, is right to about 1 % at 64, and the default
    below 24 steps, which leave no room for noise; ancestral steps lose a tenth to a quarter.

    Args:
        steps: Steps from sigma_max to 0.

    Other arguments:
        iterations: Largest Krylov dimension of the solve of a step.
        solver: "gmres"; or "cg", for Jacobians that are symmetric and positive.
        integrator: What moves x; as said above where None.
        schedule, sigma_max, sigma_min: See `Guided`; spaced by `Karras` where None.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Rozet, Andry, Lanusse, Louppe. Learning diffusion priors from observations by expectation maximization.
        NeurIPS 2024. arXiv:2405.13712.
    """

    def __init__(
        self,
        steps: int = 64,
        *,
        iterations: int = 8,
        solver: Literal["gmres", "cg"] = "gmres",
        integrator: Integrator | None = None,
        schedule: Schedule | None = None,
        sigma_max: float | None = None,
        sigma_min: float | None = None,
    ) -> None:
        guidance = MMPSGuidance(iterations, solver)
        integrator = integrator or (SASolver(3.0) if steps >= 24 else DPMSolver2M())
        super().__init__(guidance, integrator, steps, schedule or Karras(), sigma_max, sigma_min)


class TMPD(Guided):
    """Tweedie moment projection; see `TMPDGuidance`. One network call and two vector-Jacobian products a step.

    Args:
        steps: Steps from sigma_max to 0.

    Other arguments:
        integrator: What moves x; `Ancestral` where None.
        schedule, sigma_max, sigma_min: See `Guided`; spaced by `Karras` where None.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Boys, Girolami, Pidstrigach, Reich, Mosca, Akyildiz. Tweedie moment projected diffusions for inverse problems.
        TMLR 2024. arXiv:2310.06721.
    """

    def __init__(
        self,
        steps: int = 100,
        *,
        integrator: Integrator | None = None,
        schedule: Schedule | None = None,
        sigma_max: float | None = None,
        sigma_min: float | None = None,
    ) -> None:
        super().__init__(TMPDGuidance(), integrator or Ancestral(), steps, schedule or Karras(), sigma_max, sigma_min)


class DiffPIR(Guided):
    """Plug-and-play restoration; see `DiffPIRGuidance`. One network call and one linear solve a step, no backward pass.

    ``zeta`` is the share of noise that is drawn anew at each step, see `Renoise`; it goes unused where another integrator
    is given. The paper tunes ``zeta`` and ``weight`` to the task. Both at 1 give the least biased mean where the posterior
    is known; the spread is then two thirds to four fifths of the posterior's, and wider for smaller ``zeta``.

    Args:
        steps: Steps from sigma_max to 0.
        weight: The paper's lambda: how much the prior counts beside the data.
        zeta: Share of the noise's variance that is drawn anew, 0 to 1.

    Other arguments:
        iterations: Conjugate-gradient iterations at most, of the linear solve of a step.
        integrator: What moves x; `Renoise(zeta)` where None.
        schedule, sigma_max, sigma_min: See `Guided`; spaced by `Karras` where None.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Zhu, Zhang, Liang, Cao, Wen, Timofte, Van Gool. Denoising diffusion models for plug-and-play image restoration.
        CVPR workshops 2023. arXiv:2305.08995.
    """

    def __init__(
        self,
        steps: int = 100,
        *,
        weight: float = 1.0,
        zeta: float = 1.0,
        iterations: int = 200,
        integrator: Integrator | None = None,
        schedule: Schedule | None = None,
        sigma_max: float | None = None,
        sigma_min: float | None = None,
    ) -> None:
        guidance = DiffPIRGuidance(weight, iterations)
        super().__init__(guidance, integrator or Renoise(zeta), steps, schedule or Karras(), sigma_max, sigma_min)


class DDNM(Guided):
    """The null-space model; see `DDNMGuidance`. One network call a step, no backward pass, linear operators only.

    Args:
        steps: Steps from sigma_max to 0.
        plus: Whether to reckon with the noise of the data (DDNM+); if not, they are fitted exactly, noise and all.
        eta: Its square is the share of the noise's variance that is drawn anew; unused where an integrator is given.

    Other arguments:
        integrator: What moves x; `Renoise(eta**2)` where None.
        schedule, sigma_max, sigma_min: See `Guided`; spaced by `Karras` where None.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Wang, Yu, Zhang. Zero-shot image restoration using denoising diffusion null-space model. ICLR 2023.
        arXiv:2212.00490.
    """

    def __init__(
        self,
        steps: int = 100,
        *,
        plus: bool = True,
        eta: float = 0.85,
        integrator: Integrator | None = None,
        schedule: Schedule | None = None,
        sigma_max: float | None = None,
        sigma_min: float | None = None,
    ) -> None:
        guidance = DDNMGuidance(plus)
        super().__init__(guidance, integrator or _renoise(self, eta), steps, schedule or Karras(), sigma_max, sigma_min)


class DDRM(Guided):
    """Denoising diffusion restoration; see `DDRMGuidance`. One network call a step, no backward pass, linear operators only.

    Args:
        steps: Steps from sigma_max to 0.
        eta: Its square is the share of the noise's variance that is drawn anew; unused where an integrator is given.
        eta_b: How far well measured coefficients are set to the data, 0 to 1.

    Other arguments:
        integrator: What moves x; `Renoise(eta**2)` where None.
        schedule, sigma_max, sigma_min: See `Guided`; spaced by `Karras` where None.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Kawar, Elad, Ermon, Song. Denoising diffusion restoration models. NeurIPS 2022. arXiv:2201.11793.
    """

    def __init__(
        self,
        steps: int = 20,
        *,
        eta: float = 0.85,
        eta_b: float = 1.0,
        integrator: Integrator | None = None,
        schedule: Schedule | None = None,
        sigma_max: float | None = None,
        sigma_min: float | None = None,
    ) -> None:
        guidance = DDRMGuidance(eta_b)
        super().__init__(guidance, integrator or _renoise(self, eta), steps, schedule or Karras(), sigma_max, sigma_min)


class FlowChef(Guided):
    """Steered rectified flow; see `FlowChefGuidance`. One network call a step, no backward pass through the network.

    Args:
        steps: Steps from sigma_max to 0.
        scale: Step size, in units in which gradient descent on the misfit converges below 2.

    Other arguments:
        integrator: What moves x; `DDIM` where None.
        schedule, sigma_max, sigma_min: See `Guided`; spaced by `Karras` where None.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Patel, Wen, Metaxas, Yang. Steering rectified flow models in the vector field for controlled image generation.
        2024. arXiv:2412.00100.
    """

    def __init__(
        self,
        steps: int = 100,
        *,
        scale: float = 0.5,
        integrator: Integrator | None = None,
        schedule: Schedule | None = None,
        sigma_max: float | None = None,
        sigma_min: float | None = None,
    ) -> None:
        super().__init__(FlowChefGuidance(scale), integrator or DDIM(), steps, schedule or Karras(), sigma_max, sigma_min)


def _renoise(sampler: Guided, eta: float) -> Renoise:
    if not 0 <= eta <= 1:
        raise ValueError(f"{type(sampler).__name__}: eta must be between 0 and 1, got {eta}")
    return Renoise(eta**2)
