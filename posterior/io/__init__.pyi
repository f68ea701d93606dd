"""The public names and where they live: read by type checkers, and by ``__init__.py`` for what it imports at first use."""

from ._files import FileError as FileError
from .axes import find_axes as find_axes
from .fields import convert_units as convert_units, open_fields as open_fields
from .images import Image as Image, read_image as read_image, write_image as write_image
from .ismrmrd import read_ismrmrd as read_ismrmrd, read_noise as read_noise
from .kspace import KSpace as KSpace, read_kspace as read_kspace
from .observations import (
    ObservationSummary as ObservationSummary,
    read_observations as read_observations,
    summarise as summarise,
    wind_components as wind_components,
)
from .psf import read_psfs as read_psfs
from .registry import fetch as fetch
from .tables import write_observations as write_observations
from .units import UnitError as UnitError
