"""Linear operators that are a small matrix along each of some axes, with their closed forms."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from operators.linear import Linear, checked, per_member


class Separable(Linear):
    r"""y = (M_1 \otimes M_2 \otimes ...) x, each matrix along an axis of its own.

    :math:`A A^T` has the eigenvectors of the :math:`M_k M_k^T`, which are small, so the pseudo-inverse and the proximal
    operator are closed forms:

    .. math:: A^+ = A^T (A A^T)^+, \quad \mathrm{prox}(z) = z + A^T (A A^T + I / \gamma)^{-1} (y - A z).

    Args:
        shape: Event shape of x; None stands for any size.
        matrices: For axes of x, batch included (1 is the first of ``shape``), the matrix (rows, size of the axis).

    Raises:
        ValueError: x or y has the wrong shape or dtype.
    """

    img_size: tuple[int | None, ...]

    # a singular value below this share of the largest, squared, is a combination of the data that no field has
    _NULL = 1e-12

    def __init__(self, shape: tuple[int | None, ...], matrices: Mapping[int, Tensor]) -> None:
        super().__init__(img_size=tuple(shape), solver="CG")
        self.axes = tuple(matrices)
        data = list(shape)
        for axis, matrix in matrices.items():
            data[axis - 1] = matrix.shape[0]
            # double precision, cast at each call, like all weights of operators
            matrix = matrix.to(torch.float64)
            values, basis = torch.linalg.eigh(matrix @ matrix.T)
            self.register_buffer(f"matrix{axis}", matrix)
            self.register_buffer(f"values{axis}", torch.where(values > self._NULL * values.max(), values, 0.0))
            self.register_buffer(f"basis{axis}", basis)
        self.data_size = tuple(data)

    def A(self, x: Tensor, **parameters: Any) -> Tensor:
        """The data.

        Args:
            x: Field, (B, *shape).
            **parameters: Of other operators and of noise models; not used.

        Returns:
            (B, *shape) with the sizes of the axes changed.
        """
        return self._along(checked(x, type(self).__name__, "x", self.img_size), "matrix")

    def A_adjoint(self, y: Tensor, **parameters: Any) -> Tensor:
        """The transpose, from data to fields.

        Args:
            y: Data, of the shape A returns.
            **parameters: Not used.

        Returns:
            (B, *shape).
        """
        return self._along(checked(y, type(self).__name__, "y", self.data_size), "matrix", transpose=True)

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        """The pseudo-inverse, in closed form; the settings of iterative solvers are not used."""
        return self.A_adjoint(self._filtered(checked(y, type(self).__name__, "y", self.data_size), _inverse))

    def prox_l2(self, z: Tensor | float | None, y: Tensor, gamma: float | Tensor, **kwargs: Any) -> Tensor:
        """argmin_x gamma/2 |A x - y|^2 + 1/2 |x - z|^2, in closed form.

        Args:
            z: Field (B, *shape), or a number; None is 0.
            y: Data.
            gamma: Weight of the data term, a number or one per member of the batch.
            **kwargs: Settings of iterative solvers; not used.
        """
        if not isinstance(z, Tensor):
            z = torch.full_like(self.A_adjoint(y), 0.0 if z is None else float(z))
        weight = per_member(gamma, y)
        return z + self.A_adjoint(self._filtered(y - self.A(z), lambda square: weight / (1 + weight * square)))

    def _filtered(self, y: Tensor, gain: Callable[[Tensor], Tensor]) -> Tensor:
        """U g(s^2) U^T y, with the eigenvectors U and eigenvalues s^2 of A A^T."""
        square = y.new_ones(())
        for axis in self.axes:
            values = getattr(self, f"values{axis}").to(y)
            square = square * values.reshape(-1, *(1,) * (y.ndim - 1 - axis))
        return self._along(gain(square) * self._along(y, "basis", transpose=True), "basis")

    def _along(self, v: Tensor, name: str, transpose: bool = False) -> Tensor:
        for axis in self.axes:
            matrix = getattr(self, f"{name}{axis}").to(v)
            v = (v.movedim(axis, -1) @ (matrix if transpose else matrix.T)).movedim(-1, axis)
        return v


def _inverse(square: Tensor) -> Tensor:
    return torch.where(square > 0, 1 / square.clamp_min(torch.finfo(square.dtype).tiny), 0.0)
