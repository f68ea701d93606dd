"""What a sampler is: an initial state and a step, nothing about batches, seeds or files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from posterior.integrators import Noise
from posterior.problem import Problem


@dataclass(frozen=True)
class State:
    """Where a batch of chains stands.

    Args:
        x: Fields (B, *event).
        index: Steps done.
        memory: What the sampler carries from step to step.
    """

    x: Tensor
    index: int = 0
    memory: Any = None


class Sampler(ABC):
    """A method that draws from p(x | y).

    Attributes:
        steps: Steps that `step` must be called.
        is_posterior: False for methods that return a mode or a mean, whose spread means nothing.
        population: True for methods whose draws are the weighted particles of one run. Their `init` sees the
            noise of all particles at once, a `smc.core.PopulationNoise`, and their states are
            `smc.core.Particles`.
    """

    steps: int
    is_posterior: bool = True
    population: bool = False

    @abstractmethod
    def init(self, problem: Problem, noise: Noise) -> State:
        """The state before the first step."""

    @abstractmethod
    def step(self, problem: Problem, state: State, noise: Noise) -> tuple[State, dict[str, float]]:
        """One step; the dictionary names what a progress display may show (``sigma``)."""
