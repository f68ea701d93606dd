"""The correction of a reference's spread."""

import dataclasses

import numpy as np
import pytest
import torch

import posterior
from benchmarks.problems.random_field import matern_spectrum, random_field
from posterior.priors.base import Prior
from posterior.priors.labels import Labels
from posterior.priors.reference import RadialReference, radial_spectrum
from posterior.priors.spread import SpreadCorrection, fit_spread_correction

SHAPE = (1, 32, 32)
SIGMAS = torch.from_numpy(np.geomspace(0.02, 5, 8))


def overconfident(factor=0.5):
    """The Matern prior, whose reference gives the error of the denoiser `factor` times its standard deviation."""
    prior = posterior.GaussianPrior(torch.zeros(SHAPE, dtype=torch.float64), matern_spectrum(32))
    cov = prior.reference.cov
    g = torch.Generator().manual_seed(1)
    fields = cov.sqrt(torch.randn(400, *SHAPE, generator=g, dtype=torch.float64))
    reference = RadialReference(*radial_spectrum(fields))
    given = [reference.power * s**2 / (reference.power + s**2) for s in SIGMAS]
    prior.reference = dataclasses.replace(reference, sigmas=SIGMAS, errors=factor**2 * torch.stack(given))
    return prior, fields


def test_finds_the_factor_and_repairs_the_spread_of_draws():
    prior, fields = overconfident()
    correction = fit_spread_correction(prior, fields[:40], sigmas=SIGMAS.tolist())
    assert correction.factors.shape == (8, 6)
    assert float((correction.factors - 2).abs().max()) < 0.25
    assert correction.gain > 0.3
    assert correction.validated
    problem = random_field("pooling")
    exact = posterior.exact_posterior(problem.prior, problem.likelihood)
    prior.spread = correction
    ratios = []
    for corrected in (False, True):
        sampler = posterior.GaussianBridge(2, corrected=corrected)
        draws = posterior.sample(prior, problem.likelihood, sampler, draws=60, batch_size=60)
        ratios.append(float((draws.std / exact.std).mean()))
    assert ratios[0] < 0.75
    assert ratios[1] == pytest.approx(1, abs=0.05)


def test_off_unless_asked_for():
    prior, fields = overconfident()
    like = random_field("inpainting").likelihood
    plain = posterior.sample(prior, like, posterior.GaussianBridge(2), draws=1)
    prior.spread = fit_spread_correction(prior, fields[:4])
    assert torch.equal(posterior.sample(prior, like, posterior.GaussianBridge(2), draws=1).samples, plain.samples)


def test_a_correct_spectrum_is_left_alone():
    prior, fields = overconfident(1.0)
    correction = fit_spread_correction(prior, fields[:60], sigmas=SIGMAS.tolist())
    assert float((correction.factors - 1).abs().max()) < 0.12
    assert abs(correction.gain) < 0.01


def test_refused_where_there_is_none_or_it_did_not_help():
    prior, _ = overconfident()
    like = random_field("inpainting").likelihood
    with pytest.raises(ValueError, match="carries no correction"):
        posterior.sample(prior, like, posterior.GaussianBridge(2, corrected=True), draws=1)
    prior.spread = SpreadCorrection(torch.ones(1), torch.zeros(0), torch.ones(1, 1), gain=-0.1)
    with pytest.raises(ValueError, match="did not help"):
        posterior.sample(prior, like, posterior.GaussianBridge(2, corrected=True), draws=1)
    prior.reference = None
    with pytest.raises(ValueError, match="estimate_reference"):
        fit_spread_correction(prior, torch.zeros(4, *SHAPE))
    with pytest.raises(ValueError, match="positive"):
        SpreadCorrection(torch.ones(1), torch.zeros(0), -torch.ones(1, 1), 0.0)


def test_in_the_basis_of_a_grid():
    """EOFs and a remainder: the same factor everywhere, whatever the basis."""
    from posterior.priors.reference import EOFReference

    _, fields = overconfident()
    small = fields[:, :, :6, :6].contiguous()
    prior = posterior.GaussianPrior(torch.zeros(1, 6, 6, dtype=torch.float64), torch.cov(small.flatten(1).T))
    base = EOFReference.fit(small, 10)
    row = torch.cat([base.variances, torch.tensor([base.rest]).double()])
    errors = torch.stack([0.25 * row * s**2 / (row + s**2) for s in SIGMAS])
    prior.reference = dataclasses.replace(base, sigmas=SIGMAS, errors=errors)
    correction = fit_spread_correction(prior, small, sigmas=SIGMAS.tolist(), bands=3)
    assert float((correction.factors - 2).abs().max()) < 0.3


def test_points_that_do_not_exist_are_no_directions():
    """Half of the grid is land, with NaN in the fields: bands and gain are those of the sea alone."""
    from posterior.priors.reference import EOFReference

    class Linear(Prior):
        """The optimal denoiser of a reference whose spread is half of what it should be."""

        def __init__(self, fields, mask):
            self.event_shape = tuple(fields.shape[1:])
            self.labels = None if mask is None else Labels("t", ("channel", "y", "x"), mask=mask)
            base = EOFReference.fit(fields, 6, mask=mask)
            row = torch.cat([base.variances, torch.tensor([base.rest]).double()])
            errors = torch.stack([0.25 * row * s**2 / (row + s**2) for s in SIGMAS])
            self.reference = dataclasses.replace(base, sigmas=SIGMAS, errors=errors)

        def denoise(self, x, sigma):
            return self.reference.denoise(x, sigma)

    _, fields = overconfident()
    sea = fields[:, :, :6, :6]
    mask = torch.zeros(1, 6, 12, dtype=torch.bool)
    mask[..., :6] = True
    both = torch.cat([sea, torch.zeros_like(sea)], -1)
    options = {"sigmas": SIGMAS.tolist(), "bands": 3}
    alone = fit_spread_correction(Linear(sea, None), sea, **options)
    masked = fit_spread_correction(Linear(both, mask), torch.where(mask, both, torch.nan), **options)
    torch.testing.assert_close(masked.edges, alone.edges)
    torch.testing.assert_close(masked.factors, alone.factors, rtol=0.1, atol=0)
    assert masked.gain == pytest.approx(alone.gain, abs=0.03)
    with pytest.raises(ValueError, match="not finite at points that exist"):
        fit_spread_correction(Linear(sea, None), torch.where(sea > 0, sea, torch.nan), **options)
    # where it errs is fitted without them too, whatever they hold
    wanted = posterior.fit_local_spread(Linear(both, mask), both)
    for fill in (1e3, torch.nan):
        found = posterior.fit_local_spread(Linear(both, mask), torch.where(mask, both, fill))
        torch.testing.assert_close(found.references[0].errors, wanted.references[0].errors, rtol=0, atol=0)
    with pytest.raises(ValueError, match="not finite at points that exist"):
        posterior.fit_local_spread(Linear(sea, None), torch.where(sea > 0, sea, torch.nan))
