"""Is it a good prior? Denoising, draws, memorisation and the Jacobian of D, each against held-out data."""

from posterior.uncertainty.prior_check.check import PriorCheck, check_prior
from posterior.uncertainty.prior_check.denoising import DenoisingError, denoising_error
from posterior.uncertainty.prior_check.jacobian import JacobianCheck, jacobian_check
from posterior.uncertainty.prior_check.memorisation import Memorisation, memorisation
from posterior.uncertainty.prior_check.statistics import FieldStatistics, compare_fields
from posterior.uncertainty.prior_check.verdicts import Grade, Verdict

__all__ = [
    "DenoisingError",
    "FieldStatistics",
    "Grade",
    "JacobianCheck",
    "Memorisation",
    "PriorCheck",
    "Verdict",
    "check_prior",
    "compare_fields",
    "denoising_error",
    "jacobian_check",
    "memorisation",
]
