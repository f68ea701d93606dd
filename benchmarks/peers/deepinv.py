"""deepinv 0.5's samplers on our problems.

Defaults are constructors' and the documentation's: fields in [0, 1] (here plus or minus three root-mean-squares), the
variance-exploding SDE with Euler steps, 150 of them, for `PosteriorDiffusion`. DDRM is given a dense singular value
decomposition, since it takes no other operator.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.common import PeerProblem, peer_problem, spread

METHODS = ("DPS", "PiGDM", "MomentMatching", "DiffPIR", "DDRM")


class Denoiser(torch.nn.Module):
    """Our denoiser as deepinv calls it."""

    def __init__(self, problem: PeerProblem) -> None:
        super().__init__()
        self.problem = problem

    def forward(self, x: Tensor, sigma: Tensor | float, *_: Any, **__: Any) -> Tensor:
        return self.problem.denoise(x, sigma)


def run(name: str, given: Any, draws: int, seed: int, settings: dict[str, Any]) -> tuple[Tensor, PeerProblem]:
    """Draws (N, *event) of a method of `METHODS`, and the problem with its counts."""
    size = spread(given.prior)
    unit = settings.get("units", "[0, 1]") == "unit variance"
    problem = peer_problem(given, 0.0 if unit else -3 * size, size if unit else 6 * size, image=True)
    rest = {k: v for k, v in settings.items() if k != "units"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        u = _RUN[name](problem, draws, seed, unit, **rest)
    return problem.to_physical(u), problem


def physics(problem: PeerProblem) -> Any:
    """The operator with its noise."""
    import deepinv

    return deepinv.physics.LinearPhysics(
        A=lambda x, **_: problem.forward(x),
        A_adjoint=lambda y, **_: problem.adjoint(y),
        noise_model=deepinv.physics.GaussianNoise(problem.sigma),
        img_size=problem.shape,
    )


def decomposed(problem: PeerProblem) -> Any:
    """The operator through its dense singular value decomposition."""
    import deepinv

    matrix = problem.matrix()
    m, n = matrix.shape
    u, s, vh = torch.linalg.svd(matrix)
    k = len(s)
    mask = torch.zeros(1, n, dtype=torch.float64)
    mask[0, :k] = s

    def pad(c: Tensor) -> Tensor:
        return torch.cat([c, c.new_zeros(len(c), n - k)], 1)

    return deepinv.physics.DecomposablePhysics(
        U=lambda c: c[:, :k] @ u[:, :k].T,
        U_adjoint=lambda y: pad(y @ u[:, :k]),
        V=lambda c: (c @ vh).reshape(-1, *problem.shape),
        V_adjoint=lambda x: x.flatten(1) @ vh.T,
        mask=mask,
        img_size=problem.shape,
        noise_model=deepinv.physics.GaussianNoise(problem.sigma),
    )


def _dps(problem: PeerProblem, draws: int, seed: int, unit: bool, **settings: Any) -> Tensor:
    import deepinv

    rng = torch.Generator().manual_seed(seed)
    sampler = deepinv.sampling.DPS(Denoiser(problem), rng=rng, minus_one_one=not unit, **settings)
    return sampler(problem.y.expand(draws, -1), physics(problem), x_init=(draws, *problem.shape), seed=seed)


def _diffusion(kind: str):  # noqa: ANN202
    def run(problem: PeerProblem, draws: int, seed: int, unit: bool, steps: int = 150, alpha: float = 0.25, cg: int = 3):  # noqa: ANN202
        from deepinv import sampling

        denoiser = Denoiser(problem)
        fidelity = getattr(sampling, kind)(denoiser=denoiser, cg_max_iter=cg)
        sde = sampling.VarianceExplodingDiffusion(alpha=alpha)
        rng = torch.Generator().manual_seed(seed)
        solver = sampling.EulerSolver(timesteps=torch.linspace(1, 0.001, steps, dtype=torch.float64), rng=rng)
        model = sampling.PosteriorDiffusion(fidelity, denoiser, sde, solver, minus_one_one=not unit)
        return model(problem.y.expand(draws, -1), physics(problem), x_init=(draws, *problem.shape), seed=seed)

    return run


def _diffpir(problem: PeerProblem, draws: int, seed: int, unit: bool, **settings: Any) -> Tensor:
    import deepinv

    sampler = deepinv.sampling.DiffPIR(Denoiser(problem), deepinv.optim.L2(), **settings)
    return sampler(problem.y.float().expand(draws, -1), physics(problem))


def _ddrm(problem: PeerProblem, draws: int, seed: int, unit: bool, geometric: bool = False, eta: float = 0.85) -> Tensor:
    import deepinv

    sigmas = np.geomspace(1, 1e-3, 100) if geometric else None
    sampler = deepinv.sampling.DDRM(Denoiser(problem), sigmas=sigmas, eta=eta)
    return sampler(problem.y.expand(draws, -1), decomposed(problem))


_RUN = {
    "DPS": _dps,
    "PiGDM": _diffusion("PiGDMDataFidelity"),
    "MomentMatching": _diffusion("MomentMatchingDataFidelity"),
    "DiffPIR": _diffpir,
    "DDRM": _ddrm,
}
