"""The public names and where they live: read by type checkers, and by ``__init__.py`` for what it imports at first use."""

from . import plots as plots
from ._statistics import Curve as Curve
from .accuracy import sbc as sbc, tarp as tarp
from .assessment import Assessment as Assessment, assess as assess
from .conformal import (
    IntervalRepair as IntervalRepair,
    RepairCheck as RepairCheck,
    SpreadRepair as SpreadRepair,
    conformal_risk_control as conformal_risk_control,
    leave_one_out as leave_one_out,
    recalibrate_spread as recalibrate_spread,
    risk_controlling_sets as risk_controlling_sets,
)
from .experiments import calibrate as calibrate, gaussian_experiment as gaussian_experiment
from .maps import (
    HighestDensity as HighestDensity,
    PrincipalComponents as PrincipalComponents,
    entropy as entropy,
    exceedance as exceedance,
    highest_density as highest_density,
    principal_components as principal_components,
)
from .page import report as report
from .predictive import ResidualCheck as ResidualCheck, residual_check as residual_check
from .prior_check import (
    DenoisingError as DenoisingError,
    FieldStatistics as FieldStatistics,
    JacobianCheck as JacobianCheck,
    Memorisation as Memorisation,
    PriorCheck as PriorCheck,
    check_prior as check_prior,
    compare_fields as compare_fields,
    denoising_error as denoising_error,
    jacobian_check as jacobian_check,
    memorisation as memorisation,
)
from .probabilities import Reliability as Reliability, reliability as reliability
from .quantities import (
    Quantity as Quantity,
    band_energies as band_energies,
    extremes as extremes,
    function as function,
    log_likelihood as log_likelihood,
    pixels as pixels,
    region_means as region_means,
    residual_chi_square as residual_chi_square,
)
from .ranks import Coverage as Coverage, Ranks as Ranks, coverage as coverage, rank_truths as rank_truths
from .records import attach as attach, evidence as evidence
from .regions import RegionSummary as RegionSummary, summarise_regions as summarise_regions
from .scores import Scores as Scores, crps as crps, energy as energy, score as score, variogram as variogram
from .sketch import QuantileSketch as QuantileSketch
from .spread import (
    Sparsification as Sparsification,
    SpreadSkill as SpreadSkill,
    sparsification as sparsification,
    spread_skill as spread_skill,
)
from .streaming import StreamingMoments as StreamingMoments
from .trials import Trial as Trial, Trials as Trials
from .trials_io import load_trials as load_trials, save_trials as save_trials
from .viewer import view as view
