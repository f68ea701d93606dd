"""Iterative solvers over batches, every item on its own.

Items never mix: inner products are per item, and an item that has converged or broken down is frozen while the others
go on, so the answer for an item does not depend on its companions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Apply = Callable[[Tensor], Tensor]


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each item, accumulated in float64, as a column that broadcasts; (B, 1, ..., 1)."""
    return (a.double() * b.double()).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))


def cg(apply: Apply, b: Tensor, *, iterations: int, tolerance: float, start: Tensor | None = None) -> Tensor:
    """Conjugate gradients for symmetric positive definite systems (Hestenes, Stiefel 1952).

    Args:
        apply: The matrix, acting on (B, *shape).
        b: Right-hand sides (B, *shape).
        iterations: At most this many.
        tolerance: An item stops once its residual norm is below this times that of ``b``.
        start: First guess, zero where None.

    Returns:
        The solutions. An item along which the matrix turns out not to be positive stops where it is.
    """
    x = torch.zeros_like(b) if start is None else start.clone()
    r = b.clone() if start is None else b - apply(x)
    p = r
    rr = dot(r, r)
    goal = tolerance**2 * dot(b, b)
    for _ in range(iterations):
        live = rr > goal
        if not live.any():
            break
        q = apply(p)
        curvature = dot(p, q)
        live = live & (curvature > 0)
        step = torch.where(live, rr / curvature.clamp_min(1e-300), 0.0).to(b.dtype)
        x = x + step * p
        r = r - step * q
        fresh = dot(r, r)
        beta = torch.where(live, fresh / rr.clamp_min(1e-300), 0.0).to(b.dtype)
        p = r + beta * p
        rr = torch.where(live, fresh, torch.zeros_like(rr))
    return x


def gmres(apply: Apply, b: Tensor, *, iterations: int, tolerance: float) -> Tensor:
    """GMRES without restarts for any square system (Saad, Schultz 1986).

    Arnoldi vectors are orthogonalised twice. For each item the least-squares problem is solved in the Krylov space it
    reached before its residual passed the tolerance or the space was exhausted (lucky breakdown).

    Args:
        apply: The matrix, acting on (B, *shape).
        b: Right-hand sides (B, *shape).
        iterations: Largest Krylov dimension.
        tolerance: An item stops growing its space once its relative residual is below this.

    Returns:
        The solutions (B, *shape).
    """
    batch = b.shape[0]
    norm = dot(b, b).sqrt()
    safe = norm.clamp_min(1e-300)
    basis = [(b / safe).to(b.dtype)]
    hessenberg = b.new_zeros(batch, iterations + 1, iterations, dtype=torch.float64)
    used = torch.zeros(batch, dtype=torch.long, device=b.device)
    live = norm.flatten() > 0
    y = b.new_zeros(batch, iterations, dtype=torch.float64)
    for k in range(iterations):
        if not live.any():
            break
        w = apply(basis[k])
        finite = torch.isfinite(w).flatten(1).all(1)
        live = live & finite
        w = torch.where(live.reshape(norm.shape), w, torch.zeros_like(w))
        for _ in range(2):
            for j, v in enumerate(basis):
                h = dot(v, w)
                hessenberg[:, j, k] += h.flatten()
                w = w - h.to(w.dtype) * v
        tail = dot(w, w).sqrt()
        hessenberg[:, k + 1, k] = tail.flatten()
        used = torch.where(live, k + 1, used)
        fresh, residual = _least_squares(hessenberg[:, : k + 2, : k + 1], norm.flatten())
        y[:, : k + 1] = torch.where(live[:, None], fresh, y[:, : k + 1])
        exhausted = tail.flatten() <= 1e-12 * norm.flatten()
        live = live & (residual > tolerance * norm.flatten()) & ~exhausted
        basis.append(torch.where(exhausted.reshape(norm.shape), 0.0, w / tail.clamp_min(1e-300).to(w.dtype)).to(b.dtype))
    x = torch.zeros_like(b)
    for k, v in enumerate(basis[: int(used.max())]):
        x = x + torch.where(used > k, y[:, k], 0.0).reshape(norm.shape).to(b.dtype) * v
    return x


def _least_squares(h: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """argmin ||beta e1 - H y|| for each item and the norm that is left."""
    rhs = h.new_zeros(h.shape[0], h.shape[1], 1)
    rhs[:, 0, 0] = beta
    q, r = torch.linalg.qr(h)
    # A singular space (the matrix maps b to nothing) has a zero on the diagonal; the tiny number keeps y finite.
    diagonal = torch.diagonal(r, dim1=-2, dim2=-1)
    scale = diagonal.abs().amax(-1, keepdim=True).clamp_min(1e-300)
    fix = torch.where(diagonal.abs() < 1e-14 * scale, scale, diagonal) - diagonal
    y = torch.linalg.solve_triangular(r + torch.diag_embed(fix), q.mT @ rhs, upper=True)
    return y[..., 0], torch.linalg.vector_norm(rhs - h @ y, dim=(1, 2))
