"""The public names and where they live: read by type checkers, and by ``__init__.py`` for what it imports at first use."""

from . import io as io, uncertainty as uncertainty
from .draws import Draws as Draws, load_draws as load_draws
from .driver import Progress as Progress, SamplingError as SamplingError, sample as sample
from .exact import exact_posterior as exact_posterior
from .guidance.estimation import estimate_reference as estimate_reference
from .integrators import (
    DDIM as DDIM,
    Ancestral as Ancestral,
    DPMSolver2M as DPMSolver2M,
    Heun as Heun,
    Renoise as Renoise,
    SASolver as SASolver,
)
from .likelihoods import (
    CorrelatedGaussianLikelihood as CorrelatedGaussianLikelihood,
    GaussianLikelihood as GaussianLikelihood,
    OutlierLikelihood as OutlierLikelihood,
    PoissonGaussianLikelihood as PoissonGaussianLikelihood,
    PoissonLikelihood as PoissonLikelihood,
    StudentTLikelihood as StudentTLikelihood,
)
from .priors.analytic import GaussianPrior as GaussianPrior
from .priors.base import Prior as Prior
from .priors.coarse import CoarseDenoiser as CoarseDenoiser
from .priors.conditioning import Condition as Condition
from .priors.empirical import EmpiricalPrior as EmpiricalPrior
from .priors.latent import LatentPrior as LatentPrior
from .priors.layouts.adm import AttentionHeads as AttentionHeads, GuidedDiffusion as GuidedDiffusion, TorchCFM as TorchCFM
from .priors.layouts.edm import EDMNetwork as EDMNetwork
from .priors.layouts.score_sde import RectifiedFlow as RectifiedFlow, ScoreSDE as ScoreSDE
from .priors.levy import LevyPrior as LevyPrior
from .priors.loading import bundled_priors as bundled_priors, load_prior as load_prior, save_prior as save_prior
from .priors.local_fit import fit_local_spread as fit_local_spread
from .priors.mixture import GaussianMixturePrior as GaussianMixturePrior
from .priors.network import NetworkPrior as NetworkPrior
from .priors.plug_and_play import DeepinvPrior as DeepinvPrior
from .priors.spread import fit_spread_correction as fit_spread_correction
from .samplers.alternating import DataStep as DataStep
from .samplers.bridge import GaussianBridge as GaussianBridge
from .samplers.daps import DAPS as DAPS
from .samplers.flowdps import FlowDPS as FlowDPS, FlowTime as FlowTime
from .samplers.guided import (
    DDNM as DDNM,
    DDRM as DDRM,
    DPS as DPS,
    MMPS as MMPS,
    TMPD as TMPD,
    DiffPIR as DiffPIR,
    FlowChef as FlowChef,
    Guided as Guided,
    PiGDM as PiGDM,
)
from .samplers.lgd import LGD as LGD
from .samplers.pnp_dm import PnPDM as PnPDM
from .samplers.red_diff import REDDiff as REDDiff
from .samplers.smc.afdps import AFDPS as AFDPS
from .samplers.smc.fk_filter import FKFilter as FKFilter
from .samplers.smc.twisted import TDS as TDS
from .schedules import Karras as Karras, LogUniform as LogUniform
from .unconditional import sample_prior as sample_prior

__version__: str
