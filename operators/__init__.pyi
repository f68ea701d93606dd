"""The public names and where they live: read by type checkers, and by ``__init__.py`` for what it imports at first use."""

from .algebra import Compose as Compose, Offset as Offset, Stack as Stack
from .areas import AreaAverage as AreaAverage
from .blur import Blur as Blur, PSFBlur as PSFBlur
from .blur_varying import VaryingBlur as VaryingBlur, bilinear_weights as bilinear_weights
from .calibration import espirit_sets as espirit_sets
from .coils import (
    birdcage_maps as birdcage_maps,
    calibration_region as calibration_region,
    compress_coils as compress_coils,
    espirit as espirit,
    espirit_maps as espirit_maps,
    noise_covariance as noise_covariance,
    prewhiten as prewhiten,
)
from .decoded import DecodedOperator as DecodedOperator
from .grid import Grid as Grid
from .inpainting import Inpainting as Inpainting
from .kernels import (
    centred_psf as centred_psf,
    defocus_kernel as defocus_kernel,
    gaussian_kernel as gaussian_kernel,
    motion_kernel as motion_kernel,
)
from .masks import (
    cartesian_mask as cartesian_mask,
    kt_mask as kt_mask,
    partial_fourier_mask as partial_fourier_mask,
    poisson_disc_mask as poisson_disc_mask,
)
from .mri import MRI as MRI, MultiCoilMRI as MultiCoilMRI
from .mri_dynamic import DynamicMRI as DynamicMRI, SoftSENSE as SoftSENSE, VolumeMRI as VolumeMRI
from .mri_noncartesian import NonCartesianMRI as NonCartesianMRI
from .mri_offcentre import OffCentre as OffCentre
from .mri_trajectories import (
    radial_trajectory as radial_trajectory,
    spiral_trajectory as spiral_trajectory,
    voronoi_density as voronoi_density,
)
from .selection import Channel as Channel, Region as Region, Reshape as Reshape, Snapshot as Snapshot
from .stations import (
    RadiosondeProfiles as RadiosondeProfiles,
    StationObservations as StationObservations,
    observation_sigma as observation_sigma,
)
from .super_resolution import SuperResolution as SuperResolution
from .swath import CircularOrbit as CircularOrbit, SatelliteSwath as SatelliteSwath
from .trajectory import Accumulation as Accumulation, TimeSeries as TimeSeries
from .wind import WindDirection as WindDirection, WindSpeed as WindSpeed
