"""An operator behind a decoder: what an instrument sees of a field that is given by its latents."""

from collections.abc import Callable
from typing import Any

import torch
from deepinv.physics import Physics
from torch import Tensor


class DecodedOperator(Physics):
    r"""An instrument that sees a decoded field, :math:`y = A(g(z))`; nonlinear, differentiated by autograd.

    There is no noise, whatever ``physics`` has.

    Args:
        physics: The instrument, A.
        decoder: The map g from latents (B, \*latent) to fields (B, \*event); differentiable, its own business in which
            precision it works, and left as it is when this operator is cast, moved or copied.

    Raises:
        TypeError: ``physics`` is not a deepinv Physics or ``decoder`` cannot be called.
    """

    def __init__(self, physics: Physics, decoder: Callable[[Tensor], Tensor]) -> None:
        if not isinstance(physics, Physics):
            raise TypeError(f"DecodedOperator: physics is a {type(physics).__name__}; wanted a deepinv Physics")
        if not callable(decoder):
            raise TypeError(f"DecodedOperator: decoder is a {type(decoder).__name__}; wanted a function of latents")
        super().__init__()
        self.physics = physics
        # in a tuple, where torch does not register it
        self._held = (decoder,)

    @property
    def decoder(self) -> Callable[[Tensor], Tensor]:
        """g."""
        return self._held[0]

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        """A(g(x)) of latents ``x`` (B, *latent); other arguments are passed on to ``physics``."""
        return self.physics.A(self.decoder(x), **kwargs)

    def A_jvp(self, x: Tensor, v: Tensor) -> Tensor:
        """Derivative of A at ``x`` along ``v``, by autograd."""
        return torch.func.jvp(self.A, (x,), (v,))[1]
