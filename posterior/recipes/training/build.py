"""An untrained prior from fields: the affine map, the reference Gaussian and a network that starts at its denoiser."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from posterior.priors.base import Affine
from posterior.priors.climatology import Climatology
from posterior.priors.loading import load_prior
from posterior.priors.network import NetworkPrior, unet_multiple
from posterior.priors.parameterisations import EDM, GaussianResidual, GaussianResidualFlow, Parameterisation, Velocity
from posterior.priors.reference import EOFReference, RadialReference, Reference, radial_spectrum
from posterior.priors.symmetries import SYMMETRIES
from posterior.priors.training import Batches, batches_of
from posterior.priors.training.objectives import denoising_errors
from posterior.recipes.training.config import MeanConfig, NetworkConfig, ReferenceConfig, TrainingConfig
from posterior.recipes.training.data import Fields

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d import UNet2DModel

_MAKE = {
    "in_channels": "channels in",
    "out_channels": "channels out",
    "block_out_channels": "network.channels",
    "layers_per_block": "network.layers",
    "norm_num_groups": "network.groups",
    "add_attention": "network.attention",
}


@dataclasses.dataclass(frozen=True)
class Standardised:
    """Fields in standardised coordinates, and the way back.

    Args:
        train: (N, C, H, W), float32.
        develop: (M, C, H, W), float32.
        affine: Standardised to physical; the shift is the mean over the year.
        climatology: The mean on a date, or None.
    """

    train: Tensor
    develop: Tensor
    affine: Affine
    climatology: Climatology | None


def standardise(fields: Fields, about: MeanConfig) -> Standardised:
    """Take the mean of every grid point (and date) away and divide by the root-mean-square of what is left.

    Raises:
        ValueError: If harmonics are asked for and the fields have no times or are no more than the coefficients, there are
            fewer fields than folds, or nothing is left.
    """
    if (about.yearly or about.daily) and (fields.times is None or fields.develop_times is None):
        raise ValueError("mean: harmonics need fields with times; these have none")
    if len(fields.train) < about.folds:
        raise ValueError(f"mean.folds: {about.folds} folds of {len(fields.train)} fields")
    coefficients = 1 + 2 * (about.yearly + about.daily)
    if coefficients > 1 and len(fields.train) <= coefficients:
        raise ValueError(f"mean: {coefficients} coefficients of harmonics for {len(fields.train)} training fields; wanted more")
    rows = np.arange(len(fields.train))
    mean = _mean(fields, rows, about)
    train, develop = fields.train - _on(mean, fields.times), fields.develop - _on(mean, fields.develop_times)
    for fold in np.array_split(rows, about.folds) if about.folds else ():
        others = _mean(fields, np.setdiff1d(rows, fold), about)
        train[fold] = fields.train[fold] - _on(others, None if fields.times is None else fields.times[fold])
    mask = None if fields.labels is None else fields.labels.mask
    exists = train if mask is None else train[:, mask]
    scale = float(exists.square().mean().sqrt())
    if not scale > 0:
        raise ValueError("data: the training fields do not vary")
    shift, climatology = (mean, None) if isinstance(mean, Tensor) else (mean.mean, mean)
    return Standardised((train / scale).float(), (develop / scale).float(), Affine(scale, shift), climatology)


def _mean(fields: Fields, rows: np.ndarray, about: MeanConfig) -> Climatology | Tensor:
    """Of the training fields in ``rows``."""
    if fields.times is None or not (about.yearly or about.daily):
        return fields.train[rows].mean(0)
    return Climatology.fit(fields.train[rows], fields.times[rows], about.yearly, about.daily)


def _on(mean: Climatology | Tensor, times: np.ndarray | None) -> Tensor:
    return mean if isinstance(mean, Tensor) else mean.on(times)


def build_prior(config: TrainingConfig, fields: Fields, data: Standardised) -> NetworkPrior:
    """The prior before its first step; a residual network starts as the reference's denoiser itself.

    Raises:
        ValueError: If ``training.start`` has a network of another make.
    """
    mask = None if fields.labels is None else fields.labels.mask
    reference = _reference(config.reference, data.train, mask)
    parameterisation = _parameterisation(config.network.parameterisation, reference)
    channels = data.train.shape[1]
    network = _network(config.network, channels * parameterisation.inputs_per_channel, channels, config.training.seed)
    card: dict[str, Any] = {}
    if config.training.start is not None:
        start = load_prior(config.training.start)
        _start_from(start.network, network, config.training.start)
        card["commands"] = list(start.card.get("commands", []))  # of the training that this one goes on from
    return NetworkPrior(
        network,
        parameterisation,
        tuple(data.train.shape[1:]),
        affine=data.affine,
        units=fields.units,
        reference=reference,
        sigma_range=(config.training.sigma_min, config.training.sigma_max),
        labels=fields.labels,
        climatology=data.climatology,
        symmetries=tuple(set(config.training.augment) & set(SYMMETRIES)),
        multiple=unet_multiple(config.network.channels),
        name=config.name,
        card=card,
    )


def cross_fitted(
    config: TrainingConfig, fields: Fields, data: Standardised
) -> tuple[Batches, Callable[[int], Parameterisation] | None]:
    """The batch of a step, and what stands in for the prior's parameterisation in that step: see `ReferenceConfig.folds`.

    A network that learns on the residuals of fields that the Gaussian was fitted on takes them for smaller than they are.

    Raises:
        ValueError: If there are fewer fields than folds.
    """
    run, folds = config.training, config.reference.folds
    if not folds:
        return batches_of(data.train, run.batch, seed=run.seed, augment=run.augment), None
    if len(data.train) < folds:
        raise ValueError(f"reference.folds: {folds} folds of {len(data.train)} fields")
    mask = None if fields.labels is None else fields.labels.mask
    parts = data.train.tensor_split(folds)
    batches = [batches_of(part, run.batch, seed=run.seed + k, augment=run.augment) for k, part in enumerate(parts)]

    @cache
    def met(k: int) -> Parameterisation:
        """Of the fields that are not in fold ``k``; fitted when first asked for, which a finished run does not."""
        others = torch.cat([part for i, part in enumerate(parts) if i != k])
        return _parameterisation(config.network.parameterisation, _reference(config.reference, others, mask))

    return lambda step: batches[step % folds](step // folds), lambda step: met(step % folds)


def _reference(config: ReferenceConfig, fields: Tensor, mask: Tensor | None) -> Reference | None:
    if config.kind == "eof":
        return EOFReference.fit(
            fields,
            config.rank,
            mask=mask,
            shrinkage=config.shrinkage,
            localisation=config.localisation,
            hybrid=config.hybrid,
            leading=config.leading,
        )
    if config.kind == "radial":
        return RadialReference(*radial_spectrum(fields))
    return None


def _parameterisation(kind: str, reference: Reference | None) -> Parameterisation:
    if kind == "edm":
        return EDM()
    if kind == "velocity":
        return Velocity()
    if reference is None:
        raise ValueError(f"network.parameterisation: {kind!r} needs a reference")
    return GaussianResidual(reference) if kind == "gaussian-residual" else GaussianResidualFlow(reference)


def _network(config: NetworkConfig, inputs: int, outputs: int, seed: int) -> UNet2DModel:
    from diffusers.models.unets.unet_2d import UNet2DModel

    n = len(config.channels)
    down, up = ["DownBlock2D"] * n, ["UpBlock2D"] * n
    if config.attention:
        down[-1], up[0] = "AttnDownBlock2D", "AttnUpBlock2D"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = UNet2DModel(
            in_channels=inputs,
            out_channels=outputs,
            layers_per_block=config.layers,
            block_out_channels=config.channels,
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            norm_num_groups=config.groups,
            dropout=config.dropout,
            add_attention=config.attention,
        )
    for parameter in network.conv_out.parameters():
        torch.nn.init.zeros_(parameter)
    return network


def _start_from(given: torch.nn.Module, network: UNet2DModel, name: str) -> None:
    """Give ``network`` the weights of another one of the same make. Weights alone do not show the groups.

    Raises:
        ValueError: If it is of another make.
    """
    old: Any = getattr(given, "config", {})
    for key, ours in _MAKE.items():
        got, wanted = (list(v) if isinstance(v, tuple) else v for v in (old.get(key), network.config[key]))
        if got != wanted:
            raise ValueError(f"training.start: the network of prior {name!r} has {ours} {got}; this one has {wanted}")
    try:
        network.load_state_dict(given.state_dict())
    except RuntimeError as error:
        raise ValueError(f"training.start: the network of prior {name!r} is of another make than [network] says") from error


def measure(
    prior: NetworkPrior, fields: Tensor, sigmas: np.ndarray, spread: float = 1.0
) -> tuple[Reference | None, list[dict[str, float]]]:
    """The reference with the error spectrum of the prior's denoiser, and its error beside the optimal linear denoiser's.

    Args:
        prior: A trained prior.
        fields: Held-out fields, standardised (N, *event).
        sigmas: Noise levels, ascending.
        spread: Factor on the standard deviation of the spectrum.

    Returns:
        The reference, and for each sigma the root-mean-square errors ``network`` and ``gaussian`` (nan without a reference).
    """
    reference, rows, curve = prior.reference, [], []
    exists = fields.numel() if prior.labels is None or prior.labels.mask is None else len(fields) * int(prior.labels.mask.sum())
    for i, sigma in enumerate(map(float, sigmas)):
        errors = denoising_errors(prior, fields, sigma, i)
        row = {"sigma": sigma, "network": float((errors.square().sum() / exists).sqrt()), "gaussian": float("nan")}
        if reference is not None:
            g = torch.Generator().manual_seed(i)
            linear = reference.denoise(fields + sigma * torch.randn(fields.shape, generator=g), sigma)
            row["gaussian"] = float(((fields - linear).square().sum() / exists).sqrt())
        curve.append(row)
        if isinstance(reference, EOFReference | RadialReference):
            rows.append(reference.error_power(errors, sigma))
    if isinstance(reference, EOFReference | RadialReference):
        levels = torch.as_tensor(sigmas, dtype=torch.float64)
        reference = reference.with_errors(levels, spread**2 * torch.stack(rows))
    return reference, curve
