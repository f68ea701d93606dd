"""Total variation for any linear operator, with sigpy's primal-dual solver."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmarks.fields.cases import Case
from benchmarks.fields.classical.base import Classical, Estimate
from posterior.problem import pilot_noise

DUAL_STEP = 0.05


def total_variation(case: Case, weight: float, iterations: int = 300) -> Estimate:
    """argmin ||A x - y||^2 / 2 + weight sum |gradient x|, the components of the gradient apart; complex images as such.

    Area means of real fields are first put in units of their own mean and standard deviation, whatever the field measures.

    References:
        Rudin, Osher, Fatemi. Nonlinear total variation based noise removal algorithms. 1992. Physica D 60.
        Chambolle, Pock. A first-order primal-dual algorithm for convex problems. 2011. J. Math. Imaging Vis. 40.
    """
    import sigpy

    physics, y = case.likelihood.operator, case.likelihood.y
    complex_image = len(case.event_shape) == 3 and case.event_shape[0] == 2
    shape = case.event_shape[1:] if complex_image else case.event_shape
    shift, scale = (y.mean(), y.std()) if "factor" in case.facts and not complex_image else (0.0, 1.0)
    y = (y - shift) / scale
    kind = np.complex64

    def to_torch(x: np.ndarray) -> Tensor:
        values = np.stack([x.real, x.imag]) if complex_image else x.real
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None].to(y.dtype)

    def to_numpy(x: Tensor) -> np.ndarray:
        values = x[0].numpy()
        return (values[0] + 1j * values[1] if complex_image else values).astype(kind)

    class Operator(sigpy.linop.Linop):
        """The operator, linear over the reals; sigpy takes complex numbers throughout."""

        def __init__(self) -> None:
            super().__init__(tuple(y.shape), shape)

        def _apply(self, x: np.ndarray) -> np.ndarray:
            return physics.A(to_torch(x)).numpy().astype(kind)

        def _adjoint_linop(self) -> sigpy.linop.Linop:
            return Adjoint()

    class Adjoint(sigpy.linop.Linop):
        def __init__(self) -> None:
            super().__init__(shape, tuple(y.shape))

        def _apply(self, u: np.ndarray) -> np.ndarray:
            values = torch.from_numpy(np.ascontiguousarray(u.real, dtype=np.float32)).to(y.dtype)
            return to_numpy(physics.A_adjoint(values))

        def _adjoint_linop(self) -> sigpy.linop.Linop:
            return Operator()

    gradient = sigpy.linop.FiniteDifference(shape, axes=(-2, -1))
    norm = _squared_norm(physics, case.event_shape, y)
    # Step sizes from bounds: sigpy would find the norms with global random numbers. The dual variables of the gradient are
    # bounded by the weight, those of the image by its size of about one, hence the long primal step.
    app = sigpy.app.LinearLeastSquares(
        Operator(),
        y.numpy().astype(kind),
        proxg=sigpy.prox.L1Reg(gradient.oshape, weight),
        G=gradient,
        tau=1 / (DUAL_STEP * (norm + 8)),
        sigma=DUAL_STEP,
        max_iter=iterations,
        show_pbar=False,
    )
    return Estimate.of(shift + scale * to_torch(app.run())[0])


def _squared_norm(physics: object, event: tuple[int, ...], y: Tensor) -> float:
    v = pilot_noise(event, y)
    size = torch.ones(())
    for _ in range(20):
        v = physics.A_adjoint(physics.A(v))  # type: ignore[attr-defined]
        size = torch.linalg.vector_norm(v)
        v = v / size
    return 1.05 * float(size)


TV = Classical(total_variation, {"weight": [0.0003, 0.001, 0.003, 0.01]}, {"weight": 0.003})
