"""Iterative solvers over batches, every item on its own.

Items never mix: inner products are per item, and an item that has converged or broken down is frozen while the others
go on, so the answer for an item does not depend on its companions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Apply = Callable[[Tensor], Tensor]


def norm(v: Tensor) -> Tensor:
    """Euclidean norm of each item, as a column."""
    return dot(v, v).sqrt()


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each item, accumulated in float64, as a column that broadcasts; (B, 1, ..., 1)."""
    return (a * b).flatten(1).sum(1, dtype=torch.float64).reshape(-1, *[1] * (a.ndim - 1))


def cg(
    apply: Apply,
    b: Tensor,
    *,
    iterations: int,
    stop: float = 0.0,
    start: Tensor | None = None,
    precondition: Apply | None = None,
) -> tuple[Tensor, int]:
    """Conjugate gradients for symmetric positive definite systems (Hestenes, Stiefel 1952).

    Args:
        apply: The matrix, acting on (B, *shape).
        b: Right-hand sides (B, *shape).
        iterations: At most this many.
        stop: An item stops once its residual norm is below this. A stop test makes an item's answer jump with rounding,
            so where draws must not depend on their batch it is left at 0 and ``iterations`` says how many.
        start: First guess, zero where None.
        precondition: A rough inverse of the matrix, symmetric and positive definite; none where None.

    Returns:
        The solutions and the iterations run. An item along which the matrix turns out not to be positive stops where it
        is.
    """
    x = torch.zeros_like(b) if start is None else start.clone()
    r = b.clone() if start is None else b - apply(x)
    z = r if precondition is None else precondition(r)
    p = z
    rr, rz = dot(r, r), dot(r, z)
    # Below rounding of the right-hand side there is nothing left to gain.
    goal = torch.maximum(dot(b, b) * (0.1 * torch.finfo(b.dtype).eps) ** 2, torch.as_tensor(stop**2))
    for k in range(iterations):
        live = rr > goal
        if not live.any():
            return x, k
        q = apply(p)
        curvature = dot(p, q)
        live = live & (curvature > 0) & torch.isfinite(curvature)
        q = torch.where(live, q, 0.0)
        step = torch.where(live, rz / curvature.clamp_min(1e-300), 0.0).to(b.dtype)
        x = x + step * p
        r = r - step * q
        z = r if precondition is None else precondition(r)
        rr = torch.where(live, dot(r, r), torch.zeros_like(rr))
        fresh = rr if precondition is None else dot(r, z)
        beta = torch.where(live, fresh / rz.clamp_min(1e-300), 0.0).to(b.dtype)
        p = z + beta * p
        rz = fresh
    return x, iterations


def gmres(apply: Apply, b: Tensor, *, iterations: int) -> Tensor:
    """GMRES without restarts for any square system (Saad, Schultz 1986), a fixed number of iterations.

    Arnoldi vectors are orthogonalised twice. An item whose Krylov space is exhausted, or in which the matrix gives
    values that are not finite, keeps the solution in the space it reached.

    Args:
        apply: The matrix, acting on (B, *shape).
        b: Right-hand sides (B, *shape).
        iterations: Krylov dimension, cut to the size of the system.

    Returns:
        The solutions (B, *shape).
    """
    batch, iterations = b.shape[0], min(iterations, b[0].numel())
    size = norm(b)
    basis = [(b / size.clamp_min(1e-300)).to(b.dtype)]
    hessenberg = b.new_zeros(batch, iterations + 1, iterations, dtype=torch.float64)
    y = b.new_zeros(batch, iterations, dtype=torch.float64)
    live = size.flatten() > 0
    for k in range(iterations):
        if not live.any():
            break
        w = apply(basis[k])
        live = live & torch.isfinite(w).flatten(1).all(1)
        w = torch.where(live.reshape(size.shape), w, torch.zeros_like(w))
        before = norm(w)
        for _ in range(2):
            for j, v in enumerate(basis):
                h = dot(v, w)
                hessenberg[:, j, k] += h.flatten()
                w = w - h.to(w.dtype) * v
        tail = norm(w)
        exhausted = tail <= 100 * torch.finfo(b.dtype).eps * before
        tail = torch.where(exhausted, 0.0, tail)
        hessenberg[:, k + 1, k] = tail.flatten()
        fresh = _least_squares(hessenberg[:, : k + 2, : k + 1], size.flatten())
        y[:, : k + 1] = torch.where(live[:, None], fresh, y[:, : k + 1])
        live = live & ~exhausted.flatten()
        basis.append(torch.where(exhausted, 0.0, w / tail.clamp_min(1e-300)).to(b.dtype))
    x = torch.zeros_like(b)
    for k, v in enumerate(basis[:iterations]):
        x = x + y[:, k].reshape(size.shape).to(b.dtype) * v
    return x


def _least_squares(h: Tensor, beta: Tensor) -> Tensor:
    """argmin_y ||beta e1 - H y|| for each item."""
    rhs = h.new_zeros(h.shape[0], h.shape[1], 1)
    rhs[:, 0, 0] = beta
    q, r = torch.linalg.qr(h)
    # A singular space (the matrix maps b to nothing) has a zero on the diagonal; replacing it keeps y finite.
    diagonal = torch.diagonal(r, dim1=-2, dim2=-1)
    scale = diagonal.abs().amax(-1, keepdim=True).clamp_min(1e-300)
    fix = torch.where(diagonal.abs() < 1e-14 * scale, scale, diagonal) - diagonal
    return torch.linalg.solve_triangular(r + torch.diag_embed(fix), q.mT @ rhs, upper=True)[..., 0]
