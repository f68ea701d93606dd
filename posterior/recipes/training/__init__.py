"""From gridded data to a prior on disk: what ``posterior train CONFIG`` runs."""

from posterior.recipes.training.config import TrainingConfig, dataset_of, read_config
from posterior.recipes.training.run import train_prior

__all__ = ["TrainingConfig", "dataset_of", "read_config", "train_prior"]
