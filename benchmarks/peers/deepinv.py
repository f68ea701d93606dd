"""deepinv 0.5's samplers on our problems.

Defaults are constructors' and the documentation's: fields in [0, 1] (here plus or minus three root-mean-squares), the
variance-exploding SDE with Euler steps, 150 of them, for `PosteriorDiffusion` (with which a name below that is not a
sampler's is the data fidelity). DDRM is given a singular value decomposition, since it takes no other operator, and ULA
the step of a hundredth of the noise variance and 1000 steps of one chain, where the demonstration has 5000.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.common import PeerProblem, generator, peer_problem, seeded, span, spread

METHODS = ("DPS", "DiffusionDPS", "PiGDM", "MomentMatching", "ALD", "ScoreSDE", "ILVR", "DiffPIR", "DDRM", "ULA")
NONLINEAR = ("DPS", "DiffusionDPS")


class Denoiser(torch.nn.Module):
    """Our denoiser as deepinv calls it."""

    def __init__(self, problem: PeerProblem) -> None:
        super().__init__()
        self.problem = problem

    def forward(self, x: Tensor, sigma: Tensor | float, *_: Any, **__: Any) -> Tensor:
        return self.problem.denoise(x, sigma)


def run(
    name: str, given: Any, draws: int, seed: int, settings: dict[str, Any], device: torch.device | str = "cpu"
) -> tuple[Tensor, PeerProblem]:
    """Draws (N, *event) of a method of `METHODS`, made on a device and back on the CPU, and the problem with its counts."""
    unit = settings.get("units", "[0, 1]") == "unit variance"
    shift, scale = (0.0, spread(given.prior)) if unit else (-span(given), 2 * span(given))
    problem = peer_problem(given, shift, scale, image=True, nonlinear=name in NONLINEAR, device=device)
    rest = {k: v for k, v in settings.items() if k != "units"}
    with seeded(seed, device):
        u = _RUN[name](problem, draws, seed, unit, **rest)
    return problem.to_physical(u), problem


def physics(problem: PeerProblem) -> Any:
    """The operator with its noise."""
    import deepinv

    noise = deepinv.physics.GaussianNoise(problem.sigma)
    if problem.adjoint is None:
        return deepinv.physics.Physics(A=lambda x, **_: problem.forward(x), noise_model=noise).to(problem.device)
    return deepinv.physics.LinearPhysics(
        A=lambda x, **_: problem.forward(x),
        A_adjoint=lambda y, **_: problem.adjoint(y),
        noise_model=noise,
        img_size=problem.shape,
    ).to(problem.device)


def decomposed(problem: PeerProblem) -> tuple[Any, Tensor]:
    """The operator in coordinates in which data see one coefficient each, and the data there."""
    import deepinv

    if not problem.small:
        return _without_matrix(problem)
    matrix = problem.matrix()
    m, n = matrix.shape
    u, s, vh = (part.to(problem.device) for part in torch.linalg.svd(matrix))
    k = len(s)
    mask = s.new_zeros(1, n)
    mask[0, :k] = s

    def pad(c: Tensor) -> Tensor:
        return torch.cat([c, c.new_zeros(len(c), n - k)], 1)

    found = deepinv.physics.DecomposablePhysics(
        U=lambda c: c[:, :k] @ u[:, :k].T,
        U_adjoint=lambda y: pad(y @ u[:, :k]),
        V=lambda c: (c @ vh).reshape(-1, *problem.shape),
        V_adjoint=lambda x: x.flatten(1) @ vh.T,
        mask=mask,
        img_size=problem.shape,
        noise_model=deepinv.physics.GaussianNoise(problem.sigma),
    )
    return found.to(problem.device), problem.y


def _without_matrix(problem: PeerProblem) -> tuple[Any, Tensor]:
    import deepinv

    system = problem.singular()
    event = problem.ours.event_shape
    found = deepinv.physics.DecomposablePhysics(
        U=lambda c: c,
        U_adjoint=lambda y: y,
        V=lambda c: system.synthesise(c.reshape(-1, *event)).reshape(-1, *problem.shape),
        V_adjoint=lambda x: system.analyse(x.reshape(-1, *event)).flatten(1),
        mask=problem.sigma * problem.scale * system.gains.flatten(1),
        img_size=problem.shape,
        noise_model=deepinv.physics.GaussianNoise(problem.sigma),
    )
    offset = system.gains * system.analyse(system.gains.new_full((1, *event), problem.shift))
    return found.to(problem.device), problem.sigma * (system.data - offset).flatten(1)


def _dps(problem: PeerProblem, draws: int, seed: int, unit: bool, **settings: Any) -> Tensor:
    import deepinv

    rng, device = generator(seed, problem.device), problem.device
    sampler = deepinv.sampling.DPS(Denoiser(problem), rng=rng, device=device, minus_one_one=not unit, **settings)
    return sampler(problem.y.expand(draws, -1), physics(problem), x_init=(draws, *problem.shape), seed=seed)


def _diffusion(kind: str):  # noqa: ANN202
    def run(
        problem: PeerProblem, draws: int, seed: int, unit: bool, steps: int = 150, alpha: float = 0.25, **settings: Any
    ) -> Tensor:
        from deepinv import sampling

        denoiser = Denoiser(problem)
        takes = {"PiGDM": "denoiser", "MomentMatching": "denoiser", "DPS": "denoiser", "ScoreSDE": "rng", "ILVR": "rng"}
        device = problem.device
        part = {"denoiser": denoiser, "rng": generator(seed, device)}
        own = {takes[kind]: part[takes[kind]]} if kind in takes else {}
        fidelity = getattr(sampling, f"{kind}DataFidelity")(**own, **_named(settings))
        sde = sampling.VarianceExplodingDiffusion(alpha=alpha, device=device)
        times = torch.linspace(1, 0.001, steps, dtype=torch.float64, device=device)
        solver = sampling.EulerSolver(timesteps=times, rng=generator(seed, device))
        model = sampling.PosteriorDiffusion(fidelity, denoiser, sde, solver, device=device, minus_one_one=not unit)
        return model(problem.y.expand(draws, -1), physics(problem), x_init=(draws, *problem.shape), seed=seed)

    return run


def _named(settings: dict[str, Any]) -> dict[str, Any]:
    return {{"cg": "cg_max_iter"}.get(name, name): value for name, value in settings.items()}


def _ula(
    problem: PeerProblem, draws: int, seed: int, unit: bool, max_iter: int = 1000, step: float = 0.01, level: float = 2 / 255
) -> Tensor:
    import deepinv

    sampler = deepinv.sampling.ULA(
        deepinv.optim.ScorePrior(Denoiser(problem)),
        deepinv.optim.L2(sigma=problem.sigma),
        step_size=step * problem.sigma**2,
        sigma=level,
        max_iter=max_iter,
        thinning=max(1, int(0.8 * max_iter) // draws),
        clip=None if unit else (-1.0, 2.0),
        save_chain=True,
    )
    operator = physics(problem)
    sampler.sample(problem.y, operator, seed=seed, x_init=operator.A_adjoint(problem.y))
    return torch.cat([state["x"] for state in sampler.get_chain()[-draws:]])


def _diffpir(problem: PeerProblem, draws: int, seed: int, unit: bool, **settings: Any) -> Tensor:
    import deepinv

    sampler = deepinv.sampling.DiffPIR(Denoiser(problem), deepinv.optim.L2(), device=problem.device, **settings)
    return sampler(problem.y.float().expand(draws, -1), physics(problem))


def _ddrm(
    problem: PeerProblem, draws: int, seed: int, unit: bool, geometric: bool = False, eta: float = 0.85, steps: int = 100
) -> Tensor:
    import deepinv

    # without a grid of its own the library takes 100 levels, linear from 1 to 0
    sigmas = np.geomspace(1, 1e-3, steps) if geometric else None if steps == 100 else np.linspace(1, 0, steps)
    sampler = deepinv.sampling.DDRM(Denoiser(problem), sigmas=sigmas, eta=eta)
    operator, y = decomposed(problem)
    return sampler(y.expand(draws, -1), operator)


_RUN = {"DPS": _dps, "DiffusionDPS": _diffusion("DPS"), "DiffPIR": _diffpir, "DDRM": _ddrm, "ULA": _ula}
_RUN |= {kind: _diffusion(kind) for kind in ("PiGDM", "MomentMatching", "ALD", "ScoreSDE", "ILVR")}
