"""One problem in the coordinates and shapes that another library expects, its denoiser calls counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import posterior
from posterior._devices import moved
from posterior.linalg import cg
from posterior.problem import Counts, Problem, pilot_noise
from posterior.svd import LARGEST_MATRIX, SingularSystem, singular_system

FLOOR = 1e-4  # noise level below which a denoiser is asked at this level; libraries ask at 0
RCOND = 1e-6  # of a pseudo-inverse


@dataclass(frozen=True)
class PeerProblem:
    """y = A(u) + sigma noise for fields u = (z - shift) / scale, z being the prior's coordinates; data flat, in units of u.

    Args:
        prior: Ours.
        shift: Number.
        scale: Number.
        shape: Of one field, as the library sees it.
        forward: A, (B, *shape) -> (B, m).
        adjoint: Its transpose, None where A is not linear.
        y: (1, m).
        sigma: Number.
        ours: The same problem as our samplers see it, in z.
        counts: Of calls of `denoise`.
    """

    prior: posterior.Prior
    shift: float
    scale: float
    shape: tuple[int, ...]
    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor] | None
    y: Tensor
    sigma: float
    ours: Problem
    counts: Counts = field(default_factory=Counts)

    @property
    def device(self) -> torch.device:
        """Where all this lies."""
        return self.y.device

    def denoise(self, u: Tensor, sigma: Tensor | float) -> Tensor:
        """E[u0 | u], differentiable; computed in float64, returned in the precision of ``u``.

        A network is asked only for the noise levels that it was trained for: below the least at the least, above the largest
        for the field drawn in to the largest, where it says next to nothing but the mean.
        """
        level = torch.as_tensor(sigma, dtype=torch.float64).flatten().clamp_min(FLOOR)
        level = self.scale * (level[0] if level.numel() == 1 or bool((level == level[0]).all()) else level)
        z = self.shift + self.scale * u.double().reshape(len(u), *self.ours.event_shape)
        if isinstance(self.prior, posterior.NetworkPrior):
            inside = level.clamp(self.prior.sigma_min, self.prior.sigma_max)
            above = (inside / level).clamp_max(1)
            z, level = z * (above if above.ndim == 0 else above.reshape(-1, *[1] * (z.ndim - 1))), inside
        self.counts.forward += len(u)
        mean = self.prior.denoise(z, level)
        if mean.requires_grad:
            mean.register_hook(self._count_vjp)
        return ((mean - self.shift) / self.scale).reshape(u.shape).to(u.dtype)

    def to_physical(self, u: Tensor) -> Tensor:
        """Fields in physical units, on the CPU."""
        z = self.shift + self.scale * u.detach().double().reshape(len(u), *self.ours.event_shape)
        return self.prior.affine.to_physical(z).cpu()

    @property
    def small(self) -> bool:
        """Whether A as a matrix is no trouble."""
        return self.y.shape[1] * math.prod(self.shape) <= LARGEST_MATRIX

    def matrix(self) -> Tensor:
        """A as a matrix (m, n), float64, on the CPU, where it is decomposed in the same way for every device."""
        n = math.prod(self.shape)
        unit = torch.eye(n, dtype=torch.float64, device=self.device)
        return self.forward(unit.reshape(n, *self.shape)).T.cpu()

    def power(self) -> float:
        """Largest eigenvalue of A A^T: from the matrix where that is small, else by 30 power iterations."""
        if self.small:
            return float(torch.linalg.matrix_norm(self.matrix(), ord=2)) ** 2
        v = pilot_noise(self.shape, self.y)
        for _ in range(30):
            v = self._normal(v)
            size = torch.linalg.vector_norm(v)
            v = v / size
        return float(size)

    def pseudo_inverse(self) -> Callable[[Tensor], Tensor]:
        """A^+: the matrix's where that is small, else 100 conjugate gradients on the normal equations."""
        if self.small:
            inverse = torch.linalg.pinv(self.matrix(), rtol=RCOND).to(self.device)
            return lambda v: (v @ inverse.T).reshape(-1, *self.shape)
        ridge = RCOND * self.power()
        return lambda v: cg(lambda x: self._normal(x) + ridge * x, self._adjoint(v), iterations=100, stop=0.0)[0]

    def singular(self) -> SingularSystem:
        """Coordinates in which data see one coefficient each."""
        return singular_system(self.ours, "DDRM")

    def _adjoint(self, v: Tensor) -> Tensor:
        if self.adjoint is None:
            raise ValueError("wanted a linear operator")
        return self.adjoint(v)

    def _normal(self, x: Tensor) -> Tensor:
        return self._adjoint(self.forward(x))

    def _count_vjp(self, gradient: Tensor) -> None:
        self.counts.vjps += len(gradient)


@contextmanager
def seeded(seed: int, device: torch.device | str) -> Iterator[None]:
    """torch's global random numbers, which libraries draw from, set to a seed meanwhile and then put back as they were."""
    there = torch.device(device).type == "cuda" or torch.cuda.is_initialized()
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count())) if there else []):
        torch.manual_seed(seed)
        yield


def generator(seed: int, device: torch.device | str) -> torch.Generator:
    """One of their own, where they take it."""
    return torch.Generator(device).manual_seed(seed)


def peer_problem(
    given: Any,
    shift: float,
    scale: float,
    image: bool = False,
    nonlinear: bool = False,
    device: torch.device | str = "cpu",
) -> PeerProblem:
    """A problem of ours for a library.

    Data are divided by ``scale`` and the typical scale of the prior, the operator's value at u = 0 is taken from them where
    the operator is linear, so that u and y are of one size; noise of several sizes is made one by weights.

    Args:
        given: Has ``prior``, ``likelihood`` and, where the prior takes fields of any size, ``event_shape``.
        shift: Field that becomes u = 0, in the prior's coordinates.
        scale: Size of the field that becomes u = 1, likewise.

    Other arguments:
        image: Whether a vector (d,) is shown as an image (1, 1, d).
        nonlinear: Whether the library takes a nonlinear operator.
        device: Where copies of prior, operator and data are to lie.

    Raises:
        ValueError: If the noise is not Gaussian, or the operator is not linear where it must be.
    """
    prior, likelihood = moved((given.prior, given.likelihood), device)
    if not isinstance(likelihood, posterior.GaussianLikelihood):
        raise ValueError("wanted Gaussian noise")
    event = tuple(getattr(given, "event_shape", prior.event_shape))
    like = likelihood.in_standard(prior.affine, event)
    if not (like.model.linear or nonlinear):
        raise ValueError("wanted a linear operator")
    shape = (1, 1, *event) if image and len(event) == 1 else event
    reach = like.reach.flatten()
    seen = reach.nonzero().flatten()
    full = tuple(like.y.shape[1:])
    std = like.variance.sqrt().flatten()[seen]
    sigma = float(std.square().mean().sqrt())
    unit = scale * float(torch.as_tensor(prior.affine.scale, dtype=torch.float64).square().mean().sqrt())
    weights = sigma / std / unit
    linear = like.model.linear

    def forward(u: Tensor) -> Tensor:
        z = scale * u.double().reshape(-1, *event)
        out = like.model.apply(z) if linear else like.model.predict(shift + z)
        return (weights * out.flatten(1)[:, seen]).to(u.dtype)

    def adjoint(v: Tensor) -> Tensor:
        padded = torch.zeros(len(v), len(reach), dtype=torch.float64, device=v.device)
        padded[:, seen] = weights * v.detach().double()
        return (scale * like.model.transpose(padded.reshape(-1, *full))).reshape(-1, *shape).to(v.dtype)

    y = like.y.flatten(1)
    if linear:
        y = y - like.model.predict(y.new_full((1, *event), shift)).flatten(1)
    ours = Problem(prior, like, event)
    return PeerProblem(
        prior, shift, scale, shape, forward, adjoint if linear else None, weights * y[:, seen], sigma / unit, ours
    )


def spread(prior: posterior.Prior) -> float:
    """Size of the field in the prior's coordinates: root-mean-square deviation from 0."""
    if prior.reference is None or None in tuple(prior.event_shape):
        return prior.rms
    mean = prior.reference.mean(tuple(prior.event_shape))
    return math.sqrt(prior.rms**2 + float(torch.as_tensor(mean, dtype=torch.float64).square().mean()))


def span(given: Any) -> float:
    """Largest size that a coordinate is taken to have: what the problem says, else three spreads."""
    return getattr(given, "span", None) or 3 * spread(given.prior)
