"""What `posterior.sample` is given, looked at before anything is computed."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import torch

# What each of the three is known by, and what to pass in its place.
_PARTS = {
    "prior": (("denoise", "affine"), "a prior, such as load_prior('brain-mri')"),
    "likelihood": (("in_standard", "operator"), "a likelihood, such as GaussianLikelihood(operator, y, sigma)"),
    "sampler": (("init", "step", "steps"), "a sampler, such as GaussianBridge()"),
}


def check_parts(**parts: Any) -> None:
    """Raise TypeError unless prior, likelihood and sampler are what their names say, steps a whole number included."""
    for name, value in parts.items():
        attributes, wanted = _PARTS[name]
        if isinstance(value, type):
            raise TypeError(f"sample: {name} is the class {value.__name__}; wanted one of it, {value.__name__}(...)")
        if not all(hasattr(value, attribute) for attribute in attributes):
            raise TypeError(f"sample: {name} is a {type(value).__name__}; wanted {wanted}")
    check_number(f"steps of {type(parts['sampler']).__name__}", parts["sampler"].steps, 1)


def check_number(name: str, value: Any, least: int) -> None:
    """Raise unless ``value`` is a whole number, and no smaller.

    Raises:
        TypeError: If it is no whole number.
        ValueError: If it is too small.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"sample: {name} is {value!r}; wanted a whole number")
    if value < least:
        bound = "must not be negative" if least == 0 else f"must be at least {least}"
        raise ValueError(f"sample: {name} {bound}, got {value}")


def check_form(event_shape: Any, dtype: Any) -> None:
    """Raise unless an event shape, where it is given, is a tuple and the precision one that is known.

    Raises:
        TypeError: If ``event_shape`` is no tuple.
        ValueError: If ``dtype`` is another.
    """
    if event_shape is not None and np.ndim(event_shape) != 1:
        raise TypeError(f"sample: event_shape is {event_shape!r}; wanted a tuple, such as (1, 64, 64)")
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"sample: dtype must be torch.float32 or torch.float64, got {dtype}")
