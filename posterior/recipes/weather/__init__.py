"""Weather: from a table of station reports to an ensemble of fields, baselines, scores and a map."""

from posterior.recipes.weather.altimeter import with_altimeter
from posterior.recipes.weather.analysis import Analysis, Localisation, assimilate, bridge
from posterior.recipes.weather.baselines import GaussianAnalysis, LinearPrior, optimal_interpolation
from posterior.recipes.weather.etkf import calendar_window, etkf, gaspari_cohn
from posterior.recipes.weather.figures import figure
from posterior.recipes.weather.problem import StationProblem
from posterior.recipes.weather.scores import Score, area_weights, score
from posterior.recipes.weather.screening import Errors, errors_of, screen
from posterior.recipes.weather.simulation import demo_problem, simulate

__all__ = [
    "Analysis",
    "Errors",
    "GaussianAnalysis",
    "LinearPrior",
    "Localisation",
    "Score",
    "StationProblem",
    "area_weights",
    "assimilate",
    "bridge",
    "calendar_window",
    "demo_problem",
    "errors_of",
    "etkf",
    "figure",
    "gaspari_cohn",
    "optimal_interpolation",
    "score",
    "screen",
    "simulate",
    "with_altimeter",
]
