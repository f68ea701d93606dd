"""Reconstructions to compare with: zero filling, SENSE by conjugate gradients, L1-wavelet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from posterior.linalg import cg
from posterior.recipes.mri.problem import MRIProblem

if TYPE_CHECKING:
    from operators import MultiCoilMRI


def zero_filled(problem: MRIProblem) -> Tensor:
    """The coil-combined image with zeros for what was not measured, (2, H, W), in units of `scale`."""
    power = problem.maps.abs().square().sum(0)
    return problem.operator.A_adjoint(problem.y)[0] / torch.where(power > 0, power, 1.0)


def sense_cg(problem: MRIProblem, regularisation: float | None = None, *, iterations: int = 60) -> Tensor:
    """argmin ||y - A x||^2 + regularisation ||x||^2 over images on the support, by conjugate gradients.

    The coil maps are set to zero outside the support, as is usual for SENSE: with the maps of air kept, the
    bundled slice comes out half a decibel worse.

    Args:
        problem: What to reconstruct.
        regularisation: Weight. Where None the discrepancy principle sets it, without the truth: the largest
            at which the noise explains the residual, ||y - A x||^2 = m sigma^2.

    Other arguments:
        iterations: Conjugate-gradient iterations at most.

    Returns:
        The image (2, H, W), units of the problem's scale.

    References:
        Pruessmann, Weiger, Boernert, Boesiger. Advances in sensitivity encoding with arbitrary k-space
        trajectories. 2001. Magnetic Resonance in Medicine 46.
        Morozov. On the solution of functional equations by the method of regularization. 1966. Soviet
        Mathematics Doklady 7.
    """
    operator = _on_support(problem)
    right = operator.A_adjoint(problem.y)
    stop = 1e-4 * float(torch.linalg.vector_norm(right))

    def solve(weight: float, start: Tensor | None = None) -> Tensor:
        def system(v: Tensor) -> Tensor:
            return operator.A_adjoint_A(v) + weight * v

        return cg(system, right, iterations=iterations, stop=stop, start=start)[0]

    if regularisation is not None:
        return solve(regularisation)[0]
    low, high = -4.0, 0.0  # of the logarithm to base 10; the operator's norm is about one
    x = solve(10**high)
    for _ in range(8):
        middle = (low + high) / 2
        x = solve(10**middle, x)
        if float(problem.chi_square(x)) > 1:
            high = middle
        else:
            low = middle
    return solve(10**low, x)[0]


def l1_wavelet(problem: MRIProblem, regularisation: float, *, wavelet: str = "db4", iterations: int = 100) -> Tensor:
    """argmin ||y - A x||^2 / 2 + regularisation ||W x||_1 by sigpy's FISTA, coil maps as in `sense_cg`.

    Args:
        problem: What to reconstruct.
        regularisation: Weight; images have a magnitude of about 1, so a few thousandths.

    Other arguments:
        wavelet: Name of an orthogonal wavelet.
        iterations: FISTA iterations.

    Returns:
        The image (2, H, W), units of the problem's scale.

    Raises:
        ImportError: If sigpy is not installed.

    References:
        Lustig, Donoho, Pauly. Sparse MRI. 2007. Magnetic Resonance in Medicine 58.
    """
    try:
        from sigpy.mri.app import L1WaveletRecon
    except ImportError as error:
        raise ImportError("l1_wavelet needs sigpy: pip install 'posterior[mri]'") from error

    y = torch.complex(problem.y[0, 0], problem.y[0, 1]).numpy()
    maps = (problem.maps * problem.support).numpy()
    app = L1WaveletRecon(
        y,
        maps,
        regularisation,
        weights=problem.mask.float().numpy(),
        wave_name=wavelet,
        max_iter=iterations,
        # One over the operator's squared norm, which sigpy would estimate with global random numbers.
        alpha=float(1 / (np.abs(maps) ** 2).sum(0).max()),
        show_pbar=False,
    )
    return problem.on_support(torch.view_as_real(torch.from_numpy(app.run())).movedim(-1, 0).contiguous())


def _on_support(problem: MRIProblem) -> MultiCoilMRI:
    from operators import MultiCoilMRI

    return MultiCoilMRI(problem.mask.float(), problem.maps * problem.support)
