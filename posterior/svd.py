"""The singular value decomposition of a linear operator, whitened by its noise.

With R^(-1/2) A = U diag(g) V^T, the coefficients c = V^T z of a standardised field are seen one by one,

    d = U^T R^(-1/2) (y - A(0)) = g c + n,    n ~ N(0, I),

so that a Gaussian update, a projection or a noise level that fits the data are arithmetic on coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from posterior.likelihoods import Linearisation
from posterior.problem import Problem, pilot_noise

# A probe must come out of the stated diagonal to this much, relative: operators may compute in single precision.
DIAGONAL_TOLERANCE = 1e-5
JUDGED = 1e6  # and coefficients whose squared gains are so many times rounding must do so one by one
LARGEST_MATRIX = 2**24
LARGEST_BLOCKS = 2**26  # entries of the matrices of all lines together

Map = Callable[[Tensor], Tensor]
BasisName = Literal["pixels", "fourier", "complex fourier", "lines", "dense"]


@dataclass(frozen=True)
class SingularSystem:
    """Coordinates in which data see one coefficient each.

    Both maps are orthonormal and real, so white noise stays white and sums over coefficients are sums over independent
    coordinates.

    Args:
        analyse: V^T z, fields (B, *event) to coefficients of the same shape.
        synthesise: V c, back again.
        gains: g, (1, *event), zero where nothing is seen, or nothing is known of it for rounding.
        data: d, (1, *event), zero where ``gains`` are.
        squares: g^2 as far as it is known, for what works on A^T R^-1 A itself, which a gain of zero would contradict.
        basis: What the coefficients are of: "pixels", "fourier" (real, over the last two axes), "complex fourier" (of an image
            whose channels are real and imaginary part), "lines", a basis found for each row or column, or "dense", one found
            for these data.
    """

    analyse: Map
    synthesise: Map
    gains: Tensor
    data: Tensor
    squares: Tensor
    basis: BasisName = "dense"

    @property
    def solution(self) -> Tensor:
        """Coefficients d / g that the data ask for, of noise 1 / g; zero where nothing is seen."""
        return self.data * _inverse(self.gains)


def singular_system(problem: Problem, owner: str = "singular_system") -> SingularSystem:
    """The singular system of a problem's operator and noise, found once.

    Without a matrix where `matrix_free_system` knows a basis. Line by line where A^T R^-1 A does not mix the columns of a
    field, or its rows, as in multi-coil MRI whose mask is of whole lines: one matrix for each, up to 2^26 entries of them
    (images of 256 x 256). Else from the matrix, up to 2^24 entries of it (4096 unknowns and as many measurements, or 65536
    and 256).

    Args:
        problem: Its likelihood is the one that is decomposed.
        owner: What errors call the method that asks.

    Raises:
        ValueError: If the operator is not linear, or is too large for a matrix.
    """
    key = "singular system"
    if key not in problem.memo:
        problem.memo[key] = matrix_free_system(problem) or _system_of_lines(problem) or _dense_system(problem, owner)
    return problem.memo[key]


def matrix_free_system(problem: Problem) -> SingularSystem | None:
    """The singular system in a basis known beforehand; None where none of them fits.

    The bases that are tried, each on a random probe, diagonalise A^T R^-1 A: pixels (masks, observations at grid
    points), the real Fourier basis of the last two axes (circular blurs, white noise), and that of a complex image kept
    as two channels (Cartesian single-coil MRI).
    """
    key = "matrix-free singular system"
    if key not in problem.memo:
        problem.memo[key] = _matrix_free_system(problem) if problem.likelihood.model.linear else None
    return problem.memo[key]


def _matrix_free_system(problem: Problem) -> SingularSystem | None:
    normal = _Normal.of(problem)
    for name, analyse, synthesise in _bases(problem.event_shape):
        # All coefficients at once show the diagonal, were there one; random ones show whether there is.
        ones = problem.likelihood.y.new_ones(1, *problem.event_shape)
        square = analyse(normal(synthesise(ones)))
        if (system := normal.system(analyse, synthesise, square, name)) is not None:
            return system
    return None


@dataclass(frozen=True)
class _Normal:
    """A^T R^-1 A of a linear operator, and what it does to a random probe.

    Args:
        problem: Whose likelihood it is of.
        lin: Its operator.
        precision: R^-1, zero for entries that are no data.
        probe: A field (1, *event).
        seen: What becomes of it.
    """

    problem: Problem
    lin: Linearisation
    precision: Tensor
    probe: Tensor
    seen: Tensor

    @classmethod
    def of(cls, problem: Problem) -> _Normal:
        like = problem.likelihood
        lin = like.model.linearise(like.y.new_zeros(1, *problem.event_shape))
        precision, probe = like.reach / like.variance, pilot_noise(problem.event_shape, like.y)
        return cls(problem, lin, precision, probe, lin.vjp(precision * lin.jvp(probe)))

    def __call__(self, z: Tensor) -> Tensor:
        return self.lin.vjp(self.precision * self.lin.jvp(z))

    def system(self, analyse: Map, synthesise: Map, square: Tensor, name: BasisName) -> SingularSystem | None:
        """The singular system with these squared gains, (1, *event), if the probe comes out as they say."""
        like, square = self.problem.likelihood, square.clamp_min(0)
        sent = analyse(self.probe)
        error = torch.linalg.vector_norm(synthesise(square * sent) - self.seen)
        if error > DIAGONAL_TOLERANCE * torch.linalg.vector_norm(self.seen):
            return None
        # The most precise data decide that; so that others count too, coefficients are put in units of their gains.
        rounding = max(torch.finfo(like.model.dtype).eps, self.rounding)
        units = _inverse(torch.where(square > JUDGED * rounding * square.max(), square, 0.0).sqrt())
        off = units * (analyse(self(synthesise(units * sent))) - square * units * sent)
        if torch.linalg.vector_norm(off) > DIAGONAL_TOLERANCE * torch.linalg.vector_norm(sent):
            return None
        # Squares are known to rounding of the largest, so nothing is known of gains below its root; those of pixels exactly.
        least = 0.0 if name == "pixels" else 10 * torch.finfo(like.model.dtype).eps * square.max()
        gains = torch.where(square > least, square, 0.0).sqrt()
        residual = like.residual(torch.zeros_like(self.probe))
        data = analyse(self.lin.vjp(self.precision * residual)) * _inverse(gains)
        return SingularSystem(analyse, synthesise, gains, data, square, name)

    @property
    def rounding(self) -> float:
        """By how much linearity fails, relative: an operator may compute in less precision than it takes and returns."""
        off = torch.linalg.vector_norm(3 * self(self.probe / 3) - self.seen)
        return float(off / torch.linalg.vector_norm(self.seen).clamp_min(1e-300))


def _system_of_lines(problem: Problem) -> SingularSystem | None:
    """The singular system where A^T R^-1 A does not mix columns, or rows; None where it mixes both, or lines are too long."""
    shape = problem.event_shape
    if not problem.likelihood.model.linear or len(shape) < 2:
        return None
    normal = _Normal.of(problem)
    for axis in (-1, -2):
        n = math.prod(shape) // shape[axis]
        if shape[axis] < 2 or n * math.prod(shape) > LARGEST_BLOCKS:
            continue  # a single line is the whole matrix
        # Half of the lines must not be seen in the other half.
        odd = torch.arange(shape[axis], device=normal.probe.device) % 2 == 1
        leaked = _lines(normal(_of_lines(odd[:, None] * _lines(normal.probe, axis), shape, axis)), axis)[:, ~odd]
        if torch.linalg.vector_norm(leaked) > DIAGONAL_TOLERANCE * torch.linalg.vector_norm(normal.seen):
            continue
        # One unit vector in every line at a time: the matrices of all lines, column by column.
        units = torch.eye(n, dtype=normal.probe.dtype, device=normal.probe.device)
        columns = [
            _lines(normal(_of_lines(part[:, None].expand(-1, shape[axis], -1), shape, axis)), axis) for part in units.split(16)
        ]
        matrices = torch.cat(columns).transpose(0, 1).double().cpu()  # there whatever the device, as in `_dense_system`
        values, vectors = (t.to(normal.probe) for t in torch.linalg.eigh((matrices + matrices.mT) / 2))
        basis = _LineBasis(vectors, shape, axis)
        square = _of_lines(values[None], shape, axis)
        if (system := normal.system(basis.analyse, basis.synthesise, square, "lines")) is not None:
            return system
    return None


def _lines(z: Tensor, axis: int) -> Tensor:
    """Fields (B, *event) as lines (B, L, n), one for each place along an axis."""
    return z.movedim(axis, 1).flatten(2)


def _of_lines(lines: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    """The fields of these lines."""
    rest = list(shape)
    del rest[axis]
    return lines.reshape(*lines.shape[:2], *rest).movedim(1, axis)


@dataclass(frozen=True)
class _LineBasis:
    """An orthonormal basis of each line: vectors (L, n, n), in columns."""

    vectors: Tensor
    shape: tuple[int, ...]
    axis: int

    def analyse(self, z: Tensor) -> Tensor:
        """Coefficients of fields (B, *event), as fields."""
        return _of_lines(torch.einsum("lij,bli->blj", self.vectors, _lines(z, self.axis)), self.shape, self.axis)

    def synthesise(self, c: Tensor) -> Tensor:
        """Fields of coefficients (B, *event)."""
        return _of_lines(torch.einsum("lij,blj->bli", self.vectors, _lines(c, self.axis)), self.shape, self.axis)


def _dense_system(problem: Problem, owner: str) -> SingularSystem:
    like, shape = problem.likelihood, problem.event_shape
    name = type(like.model.physics).__name__
    if not like.model.linear:
        raise ValueError(f"{owner}: operator {name} is not linear; use DiffPIR or MMPS")
    n, m = math.prod(shape), like.count
    if m * n > LARGEST_MATRIX:
        raise ValueError(
            f"{owner}: operator {name} has no singular value decomposition in pixels, in Fourier space or line by line, and "
            f"its matrix of {m} data by {n} unknowns is too large (at most {LARGEST_MATRIX} entries); use DiffPIR or MMPS"
        )
    zero = like.y.new_zeros(1, *shape)
    matrix = whitened_matrix(problem)
    # On the CPU whatever the device: the signs of the vectors, and with them the draws of a seed, are LAPACK's.
    left, values, right = (t.to(matrix) for t in torch.linalg.svd(matrix.cpu(), full_matrices=False))
    values = torch.where(values > 10 * torch.finfo(like.model.dtype).eps * values.max(), values, 0.0)
    white = (like.residual(zero) * like.variance.rsqrt())[like.reach.expand_as(like.y)]
    rotation = _Rotation.completing(right.mT)

    def field(v: Tensor) -> Tensor:
        return torch.nn.functional.pad(v, (0, n - len(v))).reshape(zero.shape)

    gains, data = field(values), field((values > 0) * (left.mT @ white))
    return SingularSystem(rotation.analyse, rotation.synthesise, gains, data, gains**2)


def whitened_matrix(problem: Problem) -> Tensor:
    """R^(-1/2) A of a linear operator, measured entries only, (m, n)."""
    like = problem.likelihood
    lin = like.model.linearise(like.y.new_zeros(1, *problem.event_shape))
    rows = []
    for index in like.reach.flatten().nonzero()[:, 0].split(256):
        unit = like.y.new_zeros(len(index), like.y.numel())
        unit[torch.arange(len(index), device=index.device), index] = like.variance.flatten()[index].rsqrt()
        rows.append(lin.vjp(unit.reshape(-1, *like.y.shape[1:])).flatten(1))
    return torch.cat(rows)


@dataclass(frozen=True)
class _Rotation:
    """An orthonormal basis of R^n whose first k vectors are given; kept as k Householder reflections.

    Args:
        reflections: (n, k), as `torch.geqrf` returns them.
        tau: (k,), likewise.
        signs: (n,), so that the basis starts with the given vectors and not with their negatives.
    """

    reflections: Tensor
    tau: Tensor
    signs: Tensor

    @classmethod
    def completing(cls, vectors: Tensor) -> _Rotation:
        """From orthonormal columns (n, k)."""
        n, k = vectors.shape
        reflections, tau = (t.to(vectors) for t in torch.geqrf(vectors.cpu()))
        return cls(reflections, tau, torch.nn.functional.pad(reflections.diagonal().sign(), (0, n - k), value=1.0))

    def analyse(self, z: Tensor) -> Tensor:
        """Coefficients of fields (B, *event), as fields."""
        rows = torch.ormqr(self.reflections, self.tau, z.flatten(1).T.contiguous(), transpose=True).T
        return (self.signs * rows).reshape(z.shape)

    def synthesise(self, c: Tensor) -> Tensor:
        """Fields of coefficients (B, *event)."""
        return torch.ormqr(self.reflections, self.tau, (self.signs * c.flatten(1)).T.contiguous()).T.reshape(c.shape)


def _inverse(gains: Tensor) -> Tensor:
    """1 / g, zero where g is."""
    return torch.where(gains > 0, 1 / gains.clamp_min(torch.finfo(gains.dtype).tiny), 0.0)


def _bases(shape: tuple[int, ...]) -> list[tuple[BasisName, Map, Map]]:
    """Name, analysis and synthesis of the orthonormal bases that are tried."""
    found: list[tuple[BasisName, Map, Map]] = [("pixels", _same, _same), ("fourier", _hartley, _hartley)]
    if len(shape) == 3 and shape[0] == 2:
        found.append(("complex fourier", partial(_complex_fourier, torch.fft.fft2), partial(_complex_fourier, torch.fft.ifft2)))
    return found


def _same(z: Tensor) -> Tensor:
    return z


def _hartley(z: Tensor) -> Tensor:
    """Orthonormal Hartley transform of the last two axes (of the only one): real, and its own inverse.

    Its vectors cos(k x) + sin(k x) diagonalise what the Fourier basis does if it is symmetric, as A^T A is.
    """
    c = torch.fft.fftn(z, dim=tuple(range(max(1, z.ndim - 2), z.ndim)), norm="ortho")
    return c.real - c.imag


def _complex_fourier(transform: Callable[..., Tensor], z: Tensor) -> Tensor:
    """Orthonormal Fourier transform of a complex image (B, 2, H, W) of real and imaginary parts."""
    c = transform(torch.complex(z[:, 0], z[:, 1]), norm="ortho")
    return torch.stack([c.real, c.imag], 1)
