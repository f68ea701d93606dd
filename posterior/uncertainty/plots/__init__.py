"""Figures worth printing, one call each. All return matplotlib figures that pyplot knows nothing of.

Of draws: `reconstruction`, `samples`, `field`, `profile`, `components`. Of a test of calibration: `coverage`, `rank_histogram`,
`ecdf`, `spread_skill`, `sparsification`, `reliability`, `residuals`, and all of them, `assessment`. Those with one set of axes
take ``ax=``, to be put together.
"""

from posterior.figures.panel import reconstruction
from posterior.uncertainty.plots.calibration import coverage, ecdf, rank_histogram
from posterior.uncertainty.plots.maps import components, field, profile, samples
from posterior.uncertainty.plots.overview import assessment
from posterior.uncertainty.plots.skill import reliability, residuals, sparsification, spread_skill

__all__ = [
    "assessment",
    "components",
    "coverage",
    "ecdf",
    "field",
    "profile",
    "rank_histogram",
    "reconstruction",
    "reliability",
    "residuals",
    "samples",
    "sparsification",
    "spread_skill",
]
