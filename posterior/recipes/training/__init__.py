"""From gridded data to a prior on disk: what ``posterior train CONFIG`` runs."""

from posterior.recipes.training.config import TrainingConfig, read_config
from posterior.recipes.training.run import train_prior

__all__ = ["TrainingConfig", "read_config", "train_prior"]
