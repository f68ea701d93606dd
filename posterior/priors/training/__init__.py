"""Training a network prior: denoising score matching or flow matching, resumable to the same weights."""

from posterior.priors.training.batches import Batches, batches_of
from posterior.priors.training.loop import Step, train
from posterior.priors.training.settings import TrainingSettings

__all__ = ["Batches", "Step", "TrainingSettings", "batches_of", "train"]
