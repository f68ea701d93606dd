"""Sampling one problem, and what is said about the outcome."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from posterior.draws import Draws
from posterior.driver import Progress, sample
from posterior.priors.base import Prior
from posterior.quantiles import draws_needed
from posterior.recipes.mri.baselines import sense_cg, zero_filled
from posterior.recipes.mri.heldout import predictive_coverage, withhold
from posterior.recipes.mri.problem import MRIProblem
from posterior.samplers.base import Sampler

if TYPE_CHECKING:
    from xarray import DataTree

LEVEL = 0.9
UNITS = "file units"


@dataclass(frozen=True, eq=False)
class Result:
    """Draws and baselines of one slice, all in the units of the file.

    Args:
        problem: What was reconstructed.
        draws: Complex draws (draws, 2, H, W).
        images: Magnitude (H, W) of each reconstruction by name, that of the complex posterior mean among them.
        std: Posterior standard deviation of the magnitude (H, W), or None for point estimates.
        residuals: Normalised residual ||y - A x||^2 / (m sigma^2) of each reconstruction; for the posterior,
            the average over draws.
        interval_coverage: Share of pixels inside the head whose true magnitude lies in the 90 % interval, or
            None.
        predictive_coverage: Share of withheld measurements inside their 90 % predictive interval, or None.
        truth: Magnitude of the true image (H, W), or None.
    """

    problem: MRIProblem
    draws: Draws
    images: Mapping[str, Tensor]
    std: Tensor | None
    residuals: Mapping[str, float]
    interval_coverage: float | None = None
    predictive_coverage: float | None = None
    truth: Tensor | None = None

    @property
    def table(self) -> list[dict[str, float | str]]:
        """One row for each reconstruction: name, PSNR (dB) and NRMSE where the truth is known, residual."""
        rows: list[dict[str, float | str]] = []
        for name, image in self.images.items():
            row: dict[str, float | str] = {"reconstruction": name}
            if self.truth is not None:
                row |= {"PSNR": psnr(image, self.truth), "NRMSE": nrmse(image, self.truth)}
            rows.append(row | {"residual": self.residuals[name]})
        return rows

    def to_datatree(self) -> DataTree:
        """The draws as `Draws.to_datatree` gives them, and a group ``mri`` of what they are compared with."""
        import xarray as xr

        tree = self.draws.to_datatree()
        images = {name.replace(" ", "_").replace("-", "_").lower(): image for name, image in self.images.items()}
        images |= {} if self.std is None else {"standard_deviation": self.std}
        images |= {} if self.truth is None else {"true_magnitude": self.truth}
        variables: dict[str, Any] = {
            name: (
                ("y", "x"),
                image.numpy(),
                {"units": UNITS, "long_name": f"{name.replace('_', ' ')}, magnitude"},
            )
            for name, image in images.items()
        }
        maps = torch.view_as_real(self.problem.maps).movedim(-1, 1).numpy()
        variables["sampled"] = (("ky", "kx"), self.problem.mask.numpy().astype(np.int8), {"units": "1"})
        variables["coil_maps"] = (
            ("coil", "complex", "y", "x"),
            maps,
            {"units": "1", "long_name": "sensitivities"},
        )
        attrs: dict[str, object] = {"source": self.problem.source, **self.problem.facts}
        attrs |= {f"residual of {name}": value for name, value in self.residuals.items()}
        for name in ("interval_coverage", "predictive_coverage"):
            if (value := getattr(self, name)) is not None:
                attrs[f"{name} at {LEVEL:.0%}"] = value
        tree["mri"] = xr.DataTree(xr.Dataset(variables, attrs=attrs))
        return tree

    def save(self, path: str | Path) -> None:
        """Write the draws and the group ``mri`` to a NetCDF file that `posterior.load_draws` and ArviZ read.

        Args:
            path: Where to; replaced only once everything is written.
        """
        from posterior.draws_io import save_tree

        save_tree(self.to_datatree(), path)


def reconstruct(
    problem: MRIProblem,
    prior: Prior,
    sampler: Sampler,
    *,
    draws: int = 20,
    seed: int = 0,
    batch_size: int = 4,
    check: bool = False,
    progress: bool | Callable[[Progress], None] = False,
    checkpoint: str | Path | None = None,
    device: str | None = None,
) -> Result:
    """Draw images given a problem's k-space and compare them with zero filling and SENSE.

    Args:
        problem: What `prepare` or `demo_problem` made.
        prior: Prior of complex images of about unit magnitude.
        sampler: The method.

    Other arguments:
        draws: How many draws; a 90 % interval takes 19.
        seed: Seed of the draws.
        batch_size: Draws computed at a time.
        check: Withhold a fifth of the samples outside the calibration region in a second run of the same
            length, and count how many of them lie in their 90 % predictive interval.
        progress: As in `posterior.sample`.
        checkpoint: As in `posterior.sample`, for the first run.
        device: As in `posterior.sample`.

    Raises:
        ValueError: If prior and problem do not fit, or there are too few draws or samples for a check.
        SamplingError: If the sampler fails.
    """
    needed = math.ceil(draws_needed(LEVEL))
    if check and draws < needed:
        raise ValueError(f"reconstruct: {draws} draws cannot support the {LEVEL:.0%} interval of a check; wanted {needed}")
    reduced, held_out = withhold(problem, seed=seed) if check else (None, None)
    settings = {"draws": draws, "seed": seed, "batch_size": batch_size, "progress": progress, "device": device}
    settings |= {"event_shape": problem.event_shape, "dtype": torch.float32}
    drawn = sample(prior, problem.likelihood, sampler, checkpoint=checkpoint, **settings)
    predictive = None
    if reduced is not None and held_out is not None:
        predictive = predictive_coverage(sample(prior, reduced.likelihood, sampler, **settings), held_out, LEVEL)

    of_draws = float(problem.chi_square(drawn.samples).mean())  # before air, which the data saw too, is made dark
    drawn = _complex(drawn.map(problem.on_support))
    magnitude = drawn.magnitude()
    uncertain = drawn.is_posterior and draws > 1
    plain = {"zero-filled": zero_filled(problem), "SENSE-CG": sense_cg(problem)}
    plain = {name: problem.on_support(x) for name, x in plain.items()}
    images = {name: torch.linalg.vector_norm(x, dim=0) for name, x in plain.items()}
    residuals = {name: float(problem.chi_square(x[None])) for name, x in plain.items()}
    name = "posterior mean" if drawn.is_posterior else "estimate"
    images[name], residuals[name] = torch.linalg.vector_norm(drawn.mean, dim=0), of_draws
    coverage = None
    if problem.truth is not None and uncertain and draws >= needed:
        low, high = magnitude.interval(LEVEL)
        inside = (problem.truth >= low) & (problem.truth <= high)
        coverage = float(inside[head_mask(problem.truth)].float().mean())
    scale = problem.scale
    return Result(
        problem=problem,
        draws=_in_file_units(drawn, problem),
        images={name: scale * image for name, image in images.items()},
        std=scale * magnitude.std if uncertain else None,
        residuals=residuals,
        interval_coverage=coverage,
        predictive_coverage=predictive,
        truth=None if problem.truth is None else scale * problem.truth,
    )


def _complex(draws: Draws) -> Draws:
    return replace(draws, kind="complex", dims=("channel", "y", "x"))


def _in_file_units(draws: Draws, problem: MRIProblem) -> Draws:
    from xarray import DataArray

    coords = {}
    if problem.voxel_size is not None:
        for name, size, count in zip(("y", "x"), problem.voxel_size, draws.event_shape[-2:], strict=True):
            values = size * (np.arange(count) - count // 2)
            coords[name] = DataArray(values, dims=(name,), attrs={"units": "mm", "long_name": f"position along {name}"})
    scaled = draws.map(lambda x: problem.scale * x, name="image", units=UNITS)
    return replace(
        scaled,
        coords=coords,
        observed=problem.scale * problem.y,
        noise_std=torch.as_tensor(problem.scale * problem.sigma),
    )


def head_mask(magnitude: Tensor) -> Tensor:
    """Pixels inside the head, (H, W) bool: the largest region above a tenth of the brightest, holes filled.

    Args:
        magnitude: (H, W), best the true image.
    """
    from scipy import ndimage

    bright = magnitude.numpy() > 0.1 * np.percentile(magnitude.numpy(), 99)
    closed = ndimage.binary_fill_holes(ndimage.binary_closing(bright, iterations=2) | bright)
    # scipy returns the count alone where it is given an output, and has no overload that tells the two apart.
    labels, count = ndimage.label(closed)  # pyright: ignore[reportGeneralTypeIssues]
    if count > 1:
        closed = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    return torch.from_numpy(np.asarray(closed, dtype=bool))


def psnr(image: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio of a magnitude image in dB; the peak is the truth's maximum."""
    return float(10 * torch.log10(truth.max() ** 2 / (image - truth).square().mean()))


def nrmse(image: Tensor, truth: Tensor) -> float:
    """Root-mean-square error divided by the root-mean-square of the truth."""
    return float(torch.linalg.vector_norm(image - truth) / torch.linalg.vector_norm(truth))
