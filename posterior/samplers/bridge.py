"""GaussianBridge: calibrated transitions from a reference Gaussian."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from posterior.guidance.bridge import BridgeGuidance
from posterior.guidance.estimation import reference_of
from posterior.integrators import Ancestral, Noise
from posterior.problem import Problem
from posterior.samplers.base import State
from posterior.samplers.guided import Guided
from posterior.schedules import Karras, LogUniform, Schedule

# The first noise level, at least, in the prior's rms and in standard deviations of the Gaussian's posterior where it is widest.
TOP = 2.0
# In units of the prior's rms: an error of the denoiser so small that its law no longer matters, and where that is sought.
SETTLED = 0.1
LOWEST = (0.03, 0.5)
# Both in the prior's rms where its errors have heavy tails: a Gaussian's posterior is a worse start then, and a worse end.
HEAVY = (4.0, 0.1)
EARLY = Karras(3.0)  # and where the levels between are


class GaussianBridge(Guided):
    """Calibrated transitions from the prior's reference Gaussian; see `BridgeGuidance`.

    One network call and one linear solve a step, no backward pass. A step draws x0 given x and y and noises it again:
    x' = x0 + sigma' z. With ``renewed=0`` it goes by the bridge between x and x0 instead, x' = r x + (1 - r) x0 + sigma'
    sqrt(1 - r) z with r = (sigma' / sigma)^2. Both are exact where the Gaussian is; where it is not, what x has of earlier
    mistakes is forgotten faster when the noise is renewed. The first fields are draws of the Gaussian's own
    posterior, noised. What they say of x0 in a direction in which that posterior has standard deviation s is right only as far
    as the prior is Gaussian, and the noise hides all but s^2 / (s^2 + sigma^2) of it from the denoiser: the default grid starts
    at 2 s of the widest direction, which leaves a fifth, and at 2 rms at least. So large patterns that the data leave open
    start in more noise than those that they settle. The last draw is of a Gaussian too, whose spread is that of the denoiser's
    error, so levels at which this is small add nothing: where the prior carries a measured error spectrum the grid ends at the
    level at which its root-mean-square is 0.1 rms, though not outside 0.03 to 0.5 rms; elsewhere at 0.03 rms. Where the
    prior's `LocalSpread` has ``tails`` the Gaussian is a worse guide at both ends, and the grid goes from 4 rms at least to 0.1
    rms, more of it at high noise (`Karras`, rho = 3). Elsewhere levels are equally spaced in log sigma.

    Args:
        steps: Steps from sigma_max to 0, a network call each.

    Other arguments:
        renewed: Share of the noise of the bridge that is drawn anew; see `Ancestral`.
        relinearise: Gauss-Newton steps where the operator is not linear or the noise depends on the field.
        sweeps: Gibbs sweeps at the start where the likelihood allows for gross errors.
        corrected: Whether the spread of x0 is corrected, by the prior's `SpreadCorrection`.
        equivariant: Whether a prior with symmetries is asked in another orientation at each step; see `Guided`.
        local: Whether it follows where the denoiser errs, where the prior carries a `LocalSpread`.
        adaptive: Whether data have a say in that, where its errors have heavy ``tails``.
        jacobian: Krylov iterations with the network's Jacobian in the gain; 0 for no backward pass, 2 are enough.
        iterations: Conjugate-gradient iterations at most, of a linear solve.
        tolerance: They stop once x0 is right to this many of its standard deviations, root-mean-square.
        schedule: How the noise levels are spaced; as said above where None.
        sigma_max: First noise level (standardised units); as said above where None.
        sigma_min: Last noise level before 0, likewise.

    Raises:
        ValueError: If an argument is out of range, or the prior carries no correction that helped and one is asked for.

    References:
        Matheron's rule: Journel, Huijbregts. Mining geostatistics. 1978.
        Noise drawn anew: Zhang, Chu, Berner, Meng, Anandkumar, Song. Improving diffusion inverse problem solving with decoupled
            noise annealing. 2024. arXiv:2407.01521.
        Another orientation at each step: Terris, Moreau, Pustelnik, Tachella. Equivariant plug-and-play image reconstruction.
            CVPR 2024. arXiv:2312.01831.
    """

    guidance: BridgeGuidance

    def __init__(
        self,
        steps: int = 10,
        *,
        renewed: float = 1.0,
        relinearise: int = 3,
        sweeps: int = 10,
        corrected: bool = False,
        local: bool = True,
        adaptive: bool = True,
        jacobian: int = 0,
        equivariant: bool = True,
        iterations: int = 200,
        tolerance: float = 1e-3,
        schedule: Schedule | None = None,
        sigma_max: float | None = None,
        sigma_min: float | None = None,
    ) -> None:
        if not 0 <= renewed <= 1:
            raise ValueError(f"GaussianBridge: renewed must be between 0 and 1, got {renewed}")
        guidance = BridgeGuidance(iterations, tolerance, relinearise, sweeps, corrected, local, adaptive, jacobian)
        super().__init__(guidance, Ancestral(renewed), steps, schedule, sigma_max, sigma_min, equivariant)

    def levels(self, problem: Problem) -> list[float]:
        """See `Guided.levels`."""
        prior = problem.prior
        top = self.sigma_max if self.sigma_max is not None else min(self._top(problem), prior.sigma_max)
        low = self.sigma_min if self.sigma_min is not None else max(self._low(problem), prior.sigma_min)
        return self._spacing(problem)(self.steps, top, low)

    def _spacing(self, problem: Problem) -> Schedule:
        """See `Guided`."""
        return self.schedule or (EARLY if self._heavy(problem) else LogUniform())

    def _top(self, problem: Problem) -> float:
        widest = TOP * self.guidance.widest(problem)
        return max(widest, (HEAVY[0] if self._heavy(problem) else TOP) * problem.prior.rms)

    def _low(self, problem: Problem) -> float:
        return HEAVY[1] * problem.prior.rms if self._heavy(problem) else _lowest(problem)

    def _heavy(self, problem: Problem) -> bool:
        return self.guidance.tails(problem) is not None

    def init(self, problem: Problem, noise: Noise) -> State:
        """See `Sampler.init`."""
        self.guidance.covariance(problem, self.levels(problem)[0])  # what is wrong with it is said before the first call
        x0 = self.guidance.first(problem, noise)
        return State(x0 + self.levels(problem)[0] * noise(), memory=x0)

    def step(self, problem: Problem, state: State, noise: Noise) -> tuple[State, dict[str, float]]:
        """See `Sampler.step`; the memory is the x0 that x was drawn from."""
        levels = self.levels(problem)
        sigma, sigma_next = levels[state.index], levels[state.index + 1]
        denoiser = partial(self.guidance, self._oriented(problem, state), last=state.memory)
        x, x0 = self.integrator.step(denoiser, state.x, sigma, sigma_next, noise, None)
        return replace(state, x=x, index=state.index + 1, memory=x0), {"sigma": sigma_next}


def _lowest(problem: Problem) -> float:
    """The noise level below which the denoiser's error is taken to be Gaussian."""
    reference, rms = reference_of(problem), problem.prior.rms
    key = "lowest level of the bridge"
    if key not in problem.memo:
        low, high = LOWEST[0] * rms, LOWEST[1] * rms
        if reference.measured:
            # the root-mean-square error rises with sigma: bisection in log sigma
            for _ in range(20):
                middle = (low * high) ** 0.5
                small = reference.error_covariance(problem.event_shape, middle).mean_variance < (SETTLED * rms) ** 2
                low, high = (middle, high) if small else (low, middle)
        problem.memo[key] = low
    return problem.memo[key]
