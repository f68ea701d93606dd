"""azula 0.11's samplers on our problems.

Defaults are constructors' and the tutorial's: fields of unit variance, the variance-preserving schedule, 64 steps, DDIM
with eta 1 for what azula calls a denoiser. TDS asks its user for a twist; it is given N(y; A x_hat, sigma^2 + r^2 a) with
r^2 = s^2 / (1 + s^2), as in PiGDM, and a the largest eigenvalue of A A^T: anything less diverges on the blur.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.common import PeerProblem, peer_problem, seeded, spread

METHODS = ("DPS", "MMPS", "PGDM", "TMPD", "DiffPIR", "TDS")
NONLINEAR = ("DPS", "MMPS")


def run(
    name: str, given: Any, draws: int, seed: int, settings: dict[str, Any], device: torch.device | str = "cpu"
) -> tuple[Tensor, PeerProblem]:
    """Draws (N, *event) of a method of `METHODS`, made on a device and back on the CPU, and the problem with its counts."""
    problem = peer_problem(given, 0.0, spread(given.prior), nonlinear=name in NONLINEAR, device=device)
    with seeded(seed, device):
        sampler = _sampler(name, problem, **settings)
        u = sampler(sampler.init((draws, *problem.shape), dtype=torch.float64))
    return problem.to_physical(u), problem


def denoiser(problem: PeerProblem) -> Any:
    """Our denoiser as azula calls it."""
    import azula.denoise
    import azula.noise

    class Denoiser(azula.denoise.Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.schedule = azula.noise.VPSchedule()

        def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> Any:
            alpha, sigma = self.schedule(t)
            return azula.denoise.DiracPosterior(problem.denoise(x_t / alpha, sigma / alpha))

    return Denoiser()


def _sampler(name: str, problem: PeerProblem, steps: int = 64, eta: float = 1.0, **settings: Any) -> Any:
    from azula import sample
    from azula.guidance import diffpir, dps, mmps, pgdm, tds, tmpd
    from azula.linalg.covariance import IsotropicCovariance

    model, y, a, var = denoiser(problem), problem.y, problem.forward, problem.sigma**2
    common = {"steps": steps, "silent": True, "dtype": torch.float64, "device": problem.device}
    if name == "DPS":
        return dps.DPSSampler(model, y, a, **settings, **common)
    if name == "PGDM":
        return pgdm.PGDMSampler(model, y, a, problem.pseudo_inverse(), eta=eta, **settings, **common)
    if name == "TDS":
        return tds.TDSSampler(model, _twist(problem), **settings, **common)
    if name == "MMPS":
        guided = mmps.MMPSDenoiser(model, y, a, IsotropicCovariance(var), **settings)
    elif name == "TMPD":
        guided = tmpd.TMPDenoiser(model, y, a, var, **settings)
    else:
        guided = diffpir.DiffPIRDenoiser(model, y, a, var, **settings)
    return sample.DDIMSampler(guided, eta=eta, **common)


def _twist(problem: PeerProblem):  # noqa: ANN202
    power = problem.power()

    def log_twist(x: Tensor, s: Tensor) -> Tensor:
        var = problem.sigma**2 + power * s**2 / (1 + s**2)
        return -0.5 * (problem.y - problem.forward(x)).square() / var

    return log_twist
