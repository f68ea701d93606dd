"""How long a training run is, how fast, and what it minimises."""

from __future__ import annotations

import math
from dataclasses import dataclass

OBJECTIVES = ("denoising", "flow")


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a training run.

    Args:
        steps: Optimiser steps.
        learning_rate: Peak rate of AdamW; warmed up over ``warmup`` steps, then a cosine to zero.
        warmup: Steps of the warm-up.
        ema: Decay of the exponential moving average of the weights, which is what gets used.
        sigma_min: Smallest training noise level, standardised units.
        sigma_max: Largest.
        clip: Gradients are scaled down to this norm.
        bfloat16: Run the network in bfloat16 (weights, loss, optimiser and reference stay in float32).
        checkpoint_every: Steps between checkpoints.
        seed: Seed of noise levels, noise and dropout.

    Other arguments:
        objective: "denoising": the squared error of D weighted by its expected size, at noise levels log-uniform between
            ``sigma_min`` and ``sigma_max``. "flow": the squared error of the velocity eps - x0 on the path
            x_t = (1 - t) x0 + t eps, at times uniform between the t = sigma / (1 + sigma) of the two.
        weight_decay: Of AdamW.
        validate_every: Steps between measurements on held-out fields, whose best averaged weights are kept; 0 for none.

    Raises:
        ValueError: If a setting is out of its range.

    References:
        Lipman, Chen, Ben-Hamu, Nickel, Le. Flow matching for generative modeling. 2023. arXiv:2210.02747.
        Karras, Aittala, Aila, Laine. Elucidating the design space of diffusion-based generative models. 2022.
            arXiv:2206.00364.
    """

    steps: int
    learning_rate: float = 5e-4
    warmup: int = 200
    ema: float = 0.999
    sigma_min: float = 0.01
    sigma_max: float = 20.0
    clip: float = 1.0
    bfloat16: bool = True
    checkpoint_every: int = 200
    seed: int = 0
    objective: str = "denoising"
    weight_decay: float = 1e-3
    validate_every: int = 0

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"training: objective is {self.objective!r}; wanted 'denoising' or 'flow'")
        for name, low in (("steps", 1), ("checkpoint_every", 1), ("warmup", 0), ("seed", 0), ("validate_every", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"training: {name} is {value!r}; wanted a whole number of at least {low}")
        if self.seed >= 2**63:
            raise ValueError(f"training: seed is {self.seed}; wanted a whole number below 2^63")
        for name in ("learning_rate", "clip", "sigma_min"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"training: {name} is {getattr(self, name)}; wanted a positive number")
        if not self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(f"training: sigma from {self.sigma_min} to {self.sigma_max}; wanted sigma_min < sigma_max")
        if not 0 <= self.ema < 1 or not self.weight_decay >= 0:
            raise ValueError(f"training: ema is {self.ema} and weight_decay {self.weight_decay}; wanted [0, 1) and >= 0")

    def rate(self, step: int) -> float:
        """The learning rate at a step."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        passed = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * passed))
