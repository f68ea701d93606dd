"""Priors over the latent space of an autoencoder, whose decoder stands between the prior and the instrument."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from posterior.priors.base import Affine
from posterior.priors.network import NetworkPrior, unet_multiple
from posterior.priors.parameterisations import Parameterisation

if TYPE_CHECKING:
    from deepinv.physics import Physics
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    from operators.decoded import DecodedOperator


class LatentPrior(NetworkPrior):
    """A prior p(z) of latents together with the decoder that makes fields of them, x = decode(z).

    The prior's own fields, those that `posterior.sample` returns, are latents. The instrument sees images, so the
    likelihood is that of the operator behind the decoder::

        like = posterior.GaussianLikelihood(prior.through(physics), y, sigma)
        draws = posterior.sample(prior, like, posterior.MMPS())
        images = draws.map(prior.decode, name="image")

    The draws are exact for the images that the decoder can make, p(x) being the image of p(z); what no latent decodes to
    has no probability.

    Args:
        network: See `NetworkPrior`.
        parameterisation: See `NetworkPrior`.
        event_shape: Shape of a latent, (C, H, W).
        autoencoder: Gives the decoder, the encoder, and scale and shift of the latents, as in diffusers.

    Other arguments:
        **options: See `NetworkPrior`.

    References:
        Rombach et al. High-resolution image synthesis with latent diffusion models. 2022. arXiv:2112.10752.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        parameterisation: Parameterisation,
        event_shape: tuple[int | None, ...],
        autoencoder: AutoencoderKL,
        **options: Any,
    ) -> None:
        settings = autoencoder.config
        affine = Affine(1 / float(settings["scaling_factor"]), float(settings["shift_factor"] or 0.0))
        super().__init__(network, parameterisation, event_shape, affine=affine, **options)
        self.decoder = Decoder(autoencoder)
        self.stride = unet_multiple(settings["block_out_channels"])

    def decode(self, z: Tensor) -> Tensor:
        """Fields (B, C', s H, s W) of latents ``z`` (B, C, H, W) as `posterior.sample` returns them; s is `stride`."""
        return self.decoder(z)

    def encode(self, x: Tensor) -> Tensor:
        """Mean latents (B, C, H, W) of fields ``x`` (B, C', s H, s W)."""
        return self.decoder.encode(x)

    def through(self, physics: Physics) -> DecodedOperator:
        """``physics`` as a function of latents."""
        from operators.decoded import DecodedOperator

        return DecodedOperator(physics, self.decoder)


class Decoder(torch.nn.Module):
    """An autoencoder as a map from latents to fields. It works in its own precision; copies share its weights.

    Args:
        autoencoder: It is used as it is, in evaluation mode.
    """

    def __init__(self, autoencoder: AutoencoderKL) -> None:
        super().__init__()
        self.autoencoder: Any = autoencoder.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Decoder:
        return self

    def forward(self, z: Tensor) -> Tensor:
        """Fields of unscaled latents ``z``, in the precision of ``z``."""
        from torch.nn.attention import SDPBackend, sdpa_kernel

        # The fast attention kernels have no forward-mode derivative, which guidance asks of nonlinear operators.
        with sdpa_kernel(SDPBackend.MATH):
            return self.autoencoder.decode(z.to(self.autoencoder.dtype)).sample.to(z.dtype)

    def encode(self, x: Tensor) -> Tensor:
        """Mean latents of fields ``x``."""
        return self.autoencoder.encode(x.to(self.autoencoder.dtype)).latent_dist.mode().to(x.dtype)
