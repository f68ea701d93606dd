"""Forward operators, y = A(x): one instrument family per file, each a ``deepinv.physics.Physics``.

``import operators`` is cheap: torch and deepinv are imported when a name below is first used.
"""

from importlib import import_module
from typing import Any

_EXPORTS = {
    "Accumulation": "trajectory",
    "AreaAverage": "areas",
    "Blur": "blur",
    "Channel": "selection",
    "CircularOrbit": "swath",
    "Compose": "algebra",
    "DynamicMRI": "mri_dynamic",
    "DecodedOperator": "decoded",
    "Grid": "grid",
    "Inpainting": "inpainting",
    "MRI": "mri",
    "MultiCoilMRI": "mri",
    "NonCartesianMRI": "mri_noncartesian",
    "OffCentre": "mri_offcentre",
    "Offset": "algebra",
    "PSFBlur": "blur",
    "RadiosondeProfiles": "stations",
    "Region": "selection",
    "Reshape": "selection",
    "SatelliteSwath": "swath",
    "Snapshot": "selection",
    "SoftSENSE": "mri_dynamic",
    "Stack": "algebra",
    "StationObservations": "stations",
    "SuperResolution": "super_resolution",
    "TimeSeries": "trajectory",
    "VaryingBlur": "blur_varying",
    "VolumeMRI": "mri_dynamic",
    "WindDirection": "wind",
    "WindSpeed": "wind",
    "bilinear_weights": "blur_varying",
    "birdcage_maps": "coils",
    "calibration_region": "coils",
    "cartesian_mask": "masks",
    "centred_psf": "kernels",
    "compress_coils": "coils",
    "defocus_kernel": "kernels",
    "espirit": "coils",
    "espirit_maps": "coils",
    "espirit_sets": "calibration",
    "gaussian_kernel": "kernels",
    "kt_mask": "masks",
    "motion_kernel": "kernels",
    "noise_covariance": "coils",
    "observation_sigma": "stations",
    "partial_fourier_mask": "masks",
    "poisson_disc_mask": "masks",
    "prewhiten": "coils",
    "radial_trajectory": "mri_trajectories",
    "spiral_trajectory": "mri_trajectories",
    "voronoi_density": "mri_trajectories",
}

__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
