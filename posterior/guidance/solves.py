"""C A^T (A C A^T + R)^-1 r, the step from a Gaussian to its posterior, by the cheapest way that is open.

- Where A^T R^-1 A is diagonal in a basis in which C is too (blurs and masks in Fourier space or in pixels): arithmetic.
- Where the operator is linear and the data few: A C A^T + R is formed and factorised, once for all draws if C and R are the
  same for all of them.
- Where the operator is a function f of what a linear one B sees, and B sees few numbers: J (B C B^T) J^T + R is, for each draw,
  with J the derivative of f. What is dear, B C B^T, is formed once for all draws where C is the same.
- Else conjugate gradients on (I + L^T A^T R^-1 A L) w = L^T A^T R^-1 r with C = L L^T, which is the identity plus something
  positive, so that its residual bounds the error of w. The iterations are counted once, on a typical right-hand side.

`explain_dearly` is for a C whose products are network calls: some Krylov iterations from what a cheap C says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Literal

import torch
from torch import Tensor

from posterior.likelihoods import Linearisation, StandardLikelihood
from posterior.linalg import Apply, cg, gmres, norm
from posterior.priors.covariance import Covariance, FourierBasis, IdentityBasis, ScaledCovariance
from posterior.problem import Problem, pilot_noise
from posterior.svd import LARGEST_MATRIX, matrix_free_system, whitened_matrix

# Most data whose covariance is factorised, and how many such matrices are kept.
FEW = 512
# The same where it is another matrix for each draw, to be formed each time.
FEW_EACH = 64
KEPT = 64
PROBES = 6
# Drawn variances spread about those of the Gaussian that stands in for the law: by this factor either way, on a pilot.
SPREAD = 4.0


def explain(
    problem: Problem,
    key: Hashable,
    lin: Linearisation,
    cov: Covariance | ScaledCovariance,
    residual: Tensor,
    iterations: int,
    tolerance: float,
    variance: Tensor | None = None,
) -> Tensor:
    """C A^T (A C A^T + R)^-1 residual, as fields, for residuals (B, *range).

    Args:
        problem: Where what depends on no draw is remembered.
        key: What C depends on, besides the problem.
        lin: The operator, at the fields in question.
        cov: C.
        residual: Right-hand sides.
        iterations: Conjugate-gradient iterations at most.
        tolerance: They stop once w is right to this much, root-mean-square, for a typical residual.
        variance: Noise variances of each draw, (B or 1, *range); those of the likelihood where None.
    """
    like = problem.likelihood
    if like.model.linear and like.count > 0:
        each = isinstance(cov, ScaledCovariance)
        weights = None if variance is not None or each else _diagonal_weights(problem, cov, residual)
        if weights is not None:
            system = matrix_free_system(problem)
            assert system is not None
            return system.synthesise(weights * system.analyse(lin.vjp(like.reach / like.variance * residual)))
        if like.count <= (FEW_EACH if each else FEW) and like.count * math.prod(problem.event_shape) <= LARGEST_MATRIX:
            return _dense(problem, key, cov, residual, variance)
    elif lin.seen is not None and like.count > 0:
        few, size = FEW_EACH if isinstance(cov, ScaledCovariance) else FEW, lin.seen[0].numel()
        if max(like.count, size) <= few and size * math.prod(problem.event_shape) <= LARGEST_MATRIX:
            return _through(problem, key, lin, cov, residual, variance)
    return _iterative(problem, key, lin, cov, residual, iterations, tolerance, variance)


def explain_dearly(
    problem: Problem,
    lin: Linearisation,
    apply: Apply,
    residual: Tensor,
    start: Tensor | None,
    iterations: int,
    *,
    variance: Tensor | None = None,
    solver: Literal["gmres", "cg"] = "gmres",
) -> Tensor:
    """As `explain`, for a C whose products are dear and that need be neither symmetric nor positive.

    Args:
        problem: Whose data they are.
        lin: The operator, at the fields in question.
        apply: C v, for fields (B, *event); called ``iterations`` + 2 times, once less without ``start``.
        residual: Right-hand sides (B, *range).
        start: The answer with another, cheap covariance. Where its residual is no smaller than that of 0 it is dropped,
            item by item.
        iterations: Largest Krylov dimension.
        variance: As in `explain`.
        solver: Of the system u + R^(-1/2) A C A^T R^(-1/2) u = R^(-1/2) residual.
    """
    like = problem.likelihood
    white = like.reach * (like.variance if variance is None else variance).rsqrt()

    def system(u: Tensor) -> Tensor:
        return u + white * lin.jvp(apply(lin.vjp(white * u)))

    left, guess = white * residual, None
    if start is not None:
        guess = left - white * lin.jvp(start)
        after = left - system(guess)
        better = norm(after) < norm(left)
        guess, left = torch.where(better, guess, 0.0), torch.where(better, after, left)
    u = gmres(system, left, iterations=iterations) if solver == "gmres" else cg(system, left, iterations=iterations)[0]
    return apply(lin.vjp(white * (u if guess is None else guess + u)))


def _diagonal_weights(problem: Problem, cov: Covariance, like: Tensor) -> Tensor | None:
    """e / (1 + e g^2) in the basis that both C = diag(e) and A^T R^-1 A = diag(g^2) are diagonal in; None without one."""
    values, event = cov.eigenvalues.to(like), problem.event_shape
    number = isinstance(cov.basis, IdentityBasis) and values.ndim == 0
    fourier = isinstance(cov.basis, FourierBasis) and cov.basis.ndim == min(2, len(event))
    if not (number or fourier or isinstance(cov.basis, IdentityBasis)):
        return None
    system = matrix_free_system(problem)
    if system is None:
        return None
    shared = values.ndim < 3 or values.shape[-3] == 1  # the same in real and imaginary part
    fits = (
        number
        or (system.basis == "pixels" and isinstance(cov.basis, IdentityBasis))
        or (system.basis == "fourier" and fourier)
        or (system.basis == "complex fourier" and fourier and shared)
    )
    return values / (1 + values * system.squares) if fits else None


def _dense(
    problem: Problem, key: Hashable, cov: Covariance | ScaledCovariance, residual: Tensor, variance: Tensor | None
) -> Tensor:
    like = problem.likelihood
    each = isinstance(cov, ScaledCovariance)
    rows = _once(problem, "whitened matrix", lambda: whitened_matrix(problem))
    gram = _grams(rows, problem, cov, len(residual)) if each else _gram("whitened", rows, problem, key, cov)
    seen = like.reach.flatten()
    noise = like.variance.flatten()[seen].double()
    white = residual.flatten(1)[:, seen].double() * noise.rsqrt()
    if variance is None and not each:
        root = _once(problem, ("root", key), lambda: torch.linalg.cholesky(gram + torch.eye(len(gram)).to(gram)))
        solved = torch.cholesky_solve(white.T, root).T
    else:
        variance = like.variance if variance is None else variance
        spread = variance.expand(len(residual), *like.y.shape[1:]).flatten(1)[:, seen].double() / noise
        solved = torch.cholesky_solve(white[:, :, None], torch.linalg.cholesky(gram + torch.diag_embed(spread)))[..., 0]
    return cov.apply((solved.to(rows) @ rows).reshape(-1, *problem.event_shape))


def _through(
    problem: Problem,
    key: Hashable,
    lin: Linearisation,
    cov: Covariance | ScaledCovariance,
    residual: Tensor,
    variance: Tensor | None,
) -> Tensor:
    like, inner, back = problem.likelihood, problem.likelihood.model.inner, lin.vjp_of_seen
    assert inner is not None and lin.seen is not None and back is not None
    event = lin.seen.shape[1:]

    def matrix() -> Tensor:
        units = torch.eye(event.numel(), dtype=residual.dtype, device=residual.device).reshape(-1, *event)
        return torch.cat([inner.transpose(u).flatten(1) for u in units.split(256)])

    rows = _once(problem, "inner matrix", matrix)
    each = isinstance(cov, ScaledCovariance)
    gram = _grams(rows, problem, cov, len(residual)) if each else _gram("inner", rows, problem, key, cov)
    measured = like.reach.flatten().nonzero()[:, 0]
    rough = (like.variance if variance is None else variance).flatten(1)[:, measured].double().rsqrt()
    units = torch.zeros(len(measured), like.y.numel(), dtype=residual.dtype, device=residual.device)
    units[torch.arange(len(measured)), measured] = 1
    shape = lin.prediction.shape
    jacobian = torch.stack([back(u.reshape(1, *shape[1:]).expand(shape)).flatten(1) for u in units], 1).double()
    jacobian = rough[..., None] * jacobian
    system = jacobian @ gram @ jacobian.mT + torch.eye(len(measured)).to(gram)
    white = rough * residual.flatten(1)[:, measured].double()
    solved = torch.cholesky_solve(white[..., None], torch.linalg.cholesky(system))
    return cov.apply(((jacobian.mT @ solved)[..., 0].to(rows) @ rows).reshape(-1, *problem.event_shape))


def _gram(name: str, rows: Tensor, problem: Problem, key: Hashable, cov: Covariance) -> Tensor:
    """M C M^T in double precision, (m, m), of the matrix M (m, n) of this name."""
    if isinstance(cov.basis, IdentityBasis) and cov.eigenvalues.ndim == 0:
        white = _once(problem, f"{name} gram", lambda: rows.double() @ rows.double().T)
        return cov.eigenvalues.to(white) * white

    def form() -> Tensor:
        spread = cov.apply(rows.double().reshape(-1, *problem.event_shape)).flatten(1)
        gram = rows.double() @ spread.T
        return (gram + gram.T) / 2

    return _once(problem, ("gram", name, key), form)


def _grams(rows: Tensor, problem: Problem, cov: ScaledCovariance, batch: int) -> Tensor:
    """M C M^T in double precision for each draw, (B, m, m)."""
    fields = rows.double().reshape(-1, *problem.event_shape)
    half = torch.stack([cov.of(i).roots(fields)[1](fields).flatten(1) for i in range(batch)])
    return half @ half.mT


def _once(problem: Problem, key: Hashable, form: Callable[[], Tensor]) -> Tensor:
    """A matrix, remembered while there are few of them."""
    if key in problem.memo:
        return problem.memo[key]
    made = form()
    if sum(isinstance(k, tuple) and k[:1] in (("gram",), ("root",)) for k in problem.memo) < KEPT:
        problem.memo[key] = made
    return made


def _iterative(
    problem: Problem,
    key: Hashable,
    lin: Linearisation,
    cov: Covariance | ScaledCovariance,
    residual: Tensor,
    iterations: int,
    tolerance: float,
    variance: Tensor | None,
) -> Tensor:
    like = problem.likelihood

    def system(roots: tuple[Apply, Apply], near: Linearisation, noise: Tensor) -> Apply:
        information, (root, back) = information_operator(like, near, noise), roots
        return lambda w: w + back(information(root(w)))

    def pilot() -> tuple[Apply, Tensor]:
        root, back = roots = cov.typical.roots(residual)
        noise = like.variance
        if variance is not None:
            noise = noise * SPREAD ** pilot_noise(tuple(like.y.shape[1:]), residual, seed=2).clamp(-1, 1)
        field = root(pilot_noise(problem.event_shape, residual))
        eta = noise.sqrt() * pilot_noise(tuple(like.y.shape[1:]), residual, seed=1)
        near = like.model.linearise(field)
        return system(roots, near, noise), back(near.vjp(like.reach / noise * (near.jvp(field) + eta)))

    stop = tolerance * math.prod(problem.event_shape) ** 0.5
    settings = (key, variance is None, isinstance(cov, ScaledCovariance))
    count = problem.iterations_for(settings, pilot, stop, iterations, _fourier_preconditioner(problem, cov.typical, residual))
    noise = like.variance if variance is None else variance
    root, back = roots = cov.roots(residual)
    right = back(lin.vjp(like.reach / noise * residual))
    precondition = _fourier_preconditioner(problem, cov, residual)
    return root(cg(system(roots, lin, noise), right, iterations=count, precondition=precondition)[0])


def _fourier_preconditioner(problem: Problem, cov: Covariance | ScaledCovariance, like: Tensor) -> Apply | None:
    """w -> (I + E G)^-1 w for C diagonal in Fourier space, G the diagonal of A^T R^-1 A there; None elsewhere.

    The diagonal is that of random probes, <F v, F A^T R^-1 A v>, averaged over them, channels and neighbouring frequencies
    (Bekas, Kokiopoulou, Saad. An estimator for the diagonal of a matrix. 2007). Of a scale that varies over the field the mean
    square is taken, and no notice of the turning of components, which moves their frequencies little.
    """
    scaled = isinstance(cov, ScaledCovariance)
    likelihood, basis = problem.likelihood, (cov.bands[0] if scaled else cov).basis
    if not (likelihood.model.linear and isinstance(basis, FourierBasis) and basis.ndim == 2):
        return None

    def diagonal() -> Tensor:
        lin = likelihood.model.linearise(likelihood.y.new_zeros(1, *problem.event_shape))
        information = information_operator(likelihood, lin)
        total = torch.zeros(())
        for seed in range(PROBES):
            v = pilot_noise(problem.event_shape, likelihood.y, 10 + seed)
            seen, sent = (torch.fft.fft2(u, norm="ortho").flatten(0, -3) for u in (information(v), v))
            total = total + (seen * sent.conj()).real.mean(0) / PROBES
        rows, columns = (min(2, n - 1) for n in total.shape)  # no frequency twice
        around = torch.nn.functional.pad(total[None, None], (columns, columns, rows, rows), mode="circular")
        return torch.nn.functional.avg_pool2d(around, (2 * rows + 1, 2 * columns + 1), 1)[0, 0].clamp_min(0)

    key = "diagonal of the information"
    if key not in problem.memo:
        problem.memo[key] = diagonal()
    eigenvalues = cov.mean_eigenvalues() if scaled else cov.eigenvalues
    weights = 1 / (1 + basis.fold(eigenvalues.to(like) * problem.memo[key].to(like)))
    return lambda w: basis.synthesise(weights * basis.analyse(w), w.shape)


def information_operator(
    like: StandardLikelihood, lin: Linearisation, variance: Tensor | None = None
) -> Callable[[Tensor], Tensor]:
    """v -> A^T R^-1 A v, through the operator's own normal map where the noise is white."""
    variance = like.variance if variance is None else variance
    first = variance.flatten()[0]
    if like.model.linear and bool((variance == first).all()):
        return lambda v: like.model.normal(v) / first
    precision = like.reach / variance
    return lambda v: lin.vjp(precision * lin.jvp(v))
