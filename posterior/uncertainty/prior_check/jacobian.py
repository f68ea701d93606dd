"""Is the denoiser the gradient of something? What samplers that use dD/dx, and likelihoods, take for granted.

Of a posterior mean, sigma^2 dD/dx is a covariance: symmetric, positive, and on average the squared error that D makes.
A network has to learn all three.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from posterior.priors.base import Prior
from posterior.uncertainty._statistics import percentiles, resampled_means
from posterior.uncertainty.prior_check.verdicts import Grade, Verdict, judged

STEP = 0.02  # of ln(sigma), for the derivative along it


@dataclass(frozen=True, eq=False)
class JacobianCheck:
    """Figures at each noise level, J = dD/dx at noised held-out fields.

    Args:
        sigmas: Noise levels (S,).
        antisymmetry: ||J - J^T|| / ||J + J^T||, Frobenius norms (S,): 0 of a gradient, about 1 of a matrix of chance.
        lowest: Smallest Ritz value of the symmetric part over the largest (S,); negative where J is not positive.
        covariance: sigma^2 tr J over the squared error ||x0 - D||^2 (S,): 1 where J states the error that D makes.
        lower: Lower end of its 95 % bootstrap band over fields (S,).
        upper: Upper end (S,).
        fokker_planck: Root-mean-square of sigma dD/dsigma - 2 J (D - x) - sigma^2 grad tr J over that of its first term
            (S,): 0 where the scores of all levels belong to one distribution.
        beyond_chance: The same from the lower end of the 95 % bootstrap band over fields (S,).
        rms: The prior's root-mean-square, the unit in which the judged levels are stated.
    """

    sigmas: Tensor
    antisymmetry: Tensor
    lowest: Tensor
    covariance: Tensor
    lower: Tensor
    upper: Tensor
    fokker_planck: Tensor
    beyond_chance: Tensor
    rms: float

    @property
    def verdicts(self) -> list[Verdict]:
        """One for each figure, and what follows from them."""
        inside = judged(self.sigmas, self.rms)
        worst = {
            "symmetry": float(self.antisymmetry[inside].max()),
            "positivity": max(0.0, -float(self.lowest[inside].min())),
            "error covariance": float(torch.maximum(self.lower, 1 / self.upper)[inside].max().clamp_min(1) - 1),
            "Fokker-Planck": float(self.beyond_chance[inside].max()),
        }
        limits = {
            "symmetry": (0.05, 0.15),
            "positivity": (0.02, 0.1),
            "error covariance": (0.1, 0.3),
            "Fokker-Planck": (0.1, 0.3),
        }
        grades = {name: Grade.of(value, *limits[name]) for name, value in worst.items()}
        words = {
            "symmetry": f"The antisymmetric part of dD/dx is at most {worst['symmetry']:.3g} of the symmetric one",
            "positivity": f"The smallest eigenvalue found of dD/dx is {float(self.lowest[inside].min()):.3g} of the largest",
            "error covariance": "sigma^2 tr(dD/dx) is "
            f"{float(self.covariance[inside].min()):.3g} to {float(self.covariance[inside].max()):.3g} times the squared error "
            f"that D makes, beyond chance off by a factor of {1 + worst['error covariance']:.3g}",
            "Fokker-Planck": "The scores of neighbouring levels contradict each other by at most "
            f"{float(self.fokker_planck[inside].max()):.3g} of their change, beyond chance by {worst['Fokker-Planck']:.3g}",
        }
        found = [Verdict(name, grades[name], f"{words[name]}.") for name in worst]
        return [*found, _trust(grades)]


def _trust(grades: dict[str, Grade]) -> Verdict:
    """What samplers may rely on."""
    jacobian = Grade.worst(grades[name] for name in ("symmetry", "positivity", "error covariance"))
    whole = Grade.worst([jacobian, grades["Fokker-Planck"]])
    words = {Grade.good: "can be trusted", Grade.doubtful: "are approximate", Grade.bad: "are not to be trusted"}
    methods = "Samplers that take sigma^2 dD/dx for a covariance (MMPS, TMPD)"
    if jacobian == whole:
        return Verdict("trust", whole, f"{methods} and log-densities along the flow {words[whole]}.")
    return Verdict("trust", whole, f"{methods} {words[jacobian]}; log-densities along the flow {words[whole]}.")


def jacobian_check(
    prior: Prior,
    held_out: Tensor,
    sigmas: Tensor,
    *,
    probes: int = 4,
    krylov: int = 6,
    batch_size: int = 4,
    seed: int = 0,
    tick: Callable[[int], None] | None = None,
) -> JacobianCheck:
    """Probe dD/dx by vector-Jacobian products at held-out fields with noise.

    With u, v of independent signs E (u^T A v)^2 = ||A||_F^2, which gives both norms of the antisymmetry from the same
    ``probes`` products. Ritz values are Rayleigh quotients, so that a negative one proves a negative direction. grad tr J
    is that of u^T J u; the squared norm of the Fokker-Planck residual is the inner product of two estimates of it with
    probes of their own, which leaves no bias.

    Args:
        prior: A prior whose `denoise` can be differentiated twice.
        held_out: Fields (n, *event), standardised coordinates; each costs ``2 probes + krylov + 3`` products a level.
        sigmas: Noise levels (S,).

    Other arguments:
        probes: Random vectors, at least 2.
        krylov: Steps of the Krylov space that looks for negative directions.
        batch_size: Fields at a time.
        seed: Of noise and probes.
        tick: Called with the number of the level that is done.

    Raises:
        ValueError: If there are fewer than 2 probes.

    References:
        Hutchinson. A stochastic estimator of the trace of the influence matrix. 1989.
        Chao, Sun, Cheng, Lee. On investigating the conservative property of score-based generative models. 2023. ICML.
            arXiv:2209.12753.
        Lai, Takida, Murata, Uesaka, Mitsufuji, Ermon. FP-Diffusion: improving score-based diffusion models by enforcing
            the underlying score Fokker-Planck equation. 2023. arXiv:2210.04296.
        Efron. Tweedie's formula and selection bias. 2011.
    """
    if probes < 2:
        raise ValueError(f"jacobian_check: probes is {probes}; wanted 2 or more")
    names = ("antisymmetry", "lowest", "covariance", "lower", "upper", "fokker_planck", "beyond_chance")
    rows: dict[str, list[float]] = {name: [] for name in names}
    for j, sigma in enumerate(sigmas.tolist()):
        g = torch.Generator().manual_seed((seed * 1_000_003 + j) % 2**63)
        parts = [_at_level(prior, clean, sigma, probes, krylov, g) for clean in held_out.split(batch_size)]
        f = {name: torch.cat([p[name] for p in parts]).double() for name in parts[0]}
        # Where J all but vanishes its rounding is no asymmetry: the norm of 1 % of the identity is the least that counts.
        norm = f["sum"].mean().clamp_min(4e-4 * held_out[0].numel())
        rows["antisymmetry"].append(_root_ratio(f["difference"].mean(), norm))
        rows["lowest"].append(float(f["lowest"].min()))
        rows["covariance"].append(float(f["trace"].sum() / f["error"].sum()))
        means = resampled_means(torch.stack([f["trace"], f["error"]], -1), seed=seed)
        for end, value in zip(("lower", "upper"), percentiles(means[:, 0] / means[:, 1], 0.95), strict=True):
            rows[end].append(float(value))
        rows["fokker_planck"].append(_root_ratio(f["residual"].mean(), f["change"].mean()))
        least = percentiles(resampled_means(f["residual"][:, None], seed=seed)[:, 0], 0.95)[0]
        rows["beyond_chance"].append(_root_ratio(least, f["change"].mean()))
        if tick is not None:
            tick(j)
    return JacobianCheck(sigmas, **{k: torch.tensor(v, dtype=torch.float64) for k, v in rows.items()}, rms=prior.rms)


def _root_ratio(above: Tensor, below: Tensor) -> float:
    """Square root of a ratio, 0 where there is nothing."""
    return float((above.clamp_min(0) / below.clamp_min(1e-30)).sqrt())


def _at_level(prior: Prior, clean: Tensor, sigma: float, probes: int, krylov: int, g: torch.Generator) -> dict[str, Tensor]:
    """What each field of a batch adds to the figures, (B,)."""
    x = clean + sigma * torch.randn(clean.shape, generator=g, dtype=clean.dtype)
    signs = [torch.randint(0, 2, clean.shape, generator=g).to(clean) * 2 - 1 for _ in range(probes)]
    x = x.requires_grad_(True)
    with torch.enable_grad():
        d = prior.denoise(x, sigma)

    def transposed(v: Tensor, graph: bool = False) -> Tensor:
        return torch.autograd.grad(d, x, v, retain_graph=True, create_graph=graph)[0]

    gradients, traces, products = [], [], []
    for u in signs:
        with torch.enable_grad():
            w = transposed(u, graph=True)
            quadratic = _dot(u, w)
            # Of a linear denoiser the product does not depend on x.
            rest = None
            if quadratic.requires_grad:
                rest = torch.autograd.grad(quadratic.sum(), x, retain_graph=True, allow_unused=True)[0]
        gradients.append(torch.zeros_like(x) if rest is None else rest.detach())
        traces.append(quadratic.detach())
        products.append(w.detach())
    pairs = [(_dot(products[i], signs[k]), _dot(products[k], signs[i])) for i in range(probes) for k in range(i)]
    low = _lowest(transposed, signs[0], krylov)
    estimate = d.detach()
    up, down = (prior.denoise(x.detach(), sigma * s) for s in (1 + STEP / 2, 1 / (1 + STEP / 2)))
    change = (up - down).detach() / (2 * torch.log1p(torch.tensor(STEP / 2, dtype=torch.float64)).to(d))
    drift = change - 2 * transposed(estimate - x.detach()).detach()
    halves = [drift - sigma**2 * torch.stack(part).mean(0) for part in (gradients[: probes // 2], gradients[probes // 2 :])]
    return {
        "difference": torch.stack([(a - b) ** 2 for a, b in pairs]).sum(0),
        "sum": torch.stack([(a + b) ** 2 for a, b in pairs]).sum(0),
        "lowest": low,
        "trace": sigma**2 * torch.stack(traces).mean(0),
        "error": _dot(clean - estimate, clean - estimate),
        "residual": _dot(halves[0], halves[1]),
        "change": _dot(change, change),
    }


def _lowest(transposed: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    """Smallest Ritz value of the symmetric part over the largest, (B,)."""
    n = min(steps, start[0].numel())
    basis, images = [start / _norm(start)], []
    for k in range(n):
        w = transposed(basis[-1]).detach()
        images.append(w)
        if k + 1 == n:
            break
        for _ in range(2):  # once is not enough in single precision
            for q in basis:
                w = w - _column(_dot(q, w), w) * q
        size = _norm(w)
        if bool((size <= 1e-4 * _norm(images[-1])).any()):
            break  # the space is exhausted: more vectors would be rounding
        basis.append(w / size)
    h = torch.stack([torch.stack([_dot(q, w) for w in images], -1) for q in basis[: len(images)]], -2).double()
    values = torch.linalg.eigvalsh((h + h.mT) / 2)
    # Where J vanishes there is rounding alone; 1 is what noise would leave.
    return values[:, 0] / values[:, -1].abs().clamp_min(1e-3)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _norm(v: Tensor) -> Tensor:
    return _column(_dot(v, v).sqrt(), v)
