"""A denoiser of coarse images in a network's place at high noise."""

import dataclasses
import json
import shutil

import pytest
import torch

import posterior
from posterior._resources import resource
from posterior.priors.base import Affine
from posterior.priors.coarse import CoarseDenoiser
from posterior.priors.network import NetworkPrior
from posterior.priors.parameterisations import GaussianResidual
from posterior.priors.reference import EOFReference
from posterior.problem import Problem
from tests.priors.made_priors import fields, make_unet, reference

FACTOR, ABOVE = 4, 3.0


def make_coarse(trained, factor=FACTOR, above=ABOVE):
    """Of a random network, or of one that says what its Gaussian does: the fine Gaussian's lowest frequencies."""
    fine = reference()
    own = dataclasses.replace(fine, frequencies=fine.frequencies * factor, power=fine.power / factor**2)
    unet = make_unet(2)
    if not trained:
        for parameter in unet.conv_out.parameters():
            torch.nn.init.zeros_(parameter)
    prior = NetworkPrior(
        unet,
        GaussianResidual(own),
        (1, None, None),
        affine=Affine(float(factor)),
        reference=own,
        sigma_range=(0.1, 20.0),
        multiple=2,
    )
    return CoarseDenoiser(prior, factor, above)


def make_prior(trained=True):
    return NetworkPrior(
        make_unet(2),
        GaussianResidual(reference()),
        (1, None, None),
        reference=reference(),
        sigma_range=(0.01, 5.0),
        coarse=make_coarse(trained),
        multiple=2,
    )


class TestRestriction:
    @pytest.mark.parametrize("size", [(16, 24), (17, 30), (8, 9), (3, 5)])
    def test_keeps_low_waves_and_the_white_noise_as_strong_as_it_was(self, size):
        coarse = make_coarse(False)
        noise = coarse.restrict(fields(4000, 1, *size).double())
        kept = [2 * ((n - 1) // 2) + 1 for n in noise.shape[-2:]]
        share = kept[0] * kept[1] / noise[0, 0].numel()
        assert float(noise.var()) == pytest.approx(share, rel=0.05)
        assert torch.allclose(coarse.restrict(torch.ones(1, 1, *size)), torch.tensor(4.0) * _mean_ratio(size, noise.shape[-2:]))

    def test_is_a_projection_and_its_adjoint(self):
        coarse = make_coarse(False)
        x, y = fields(2, 1, 17, 24).double(), fields(2, 1, 4, 6, seed=2).double()
        from posterior.priors.coarse import _resized

        up = _resized(y, (17, 24))
        assert float((coarse.restrict(x) * y).sum()) == pytest.approx(float((x * up).sum()), rel=1e-9)
        assert torch.allclose(coarse.restrict(_resized(coarse.restrict(x), (17, 24))), coarse.restrict(x), atol=1e-12)


def _mean_ratio(fine, coarse):
    """Of an orthonormal FFT's mean, over 4: sqrt of the ratio of sizes."""
    return (fine[0] * fine[1] / (coarse[0] * coarse[1])) ** 0.5 / 4


class TestDenoiser:
    def test_of_the_gaussian_is_the_gaussian(self):
        prior = make_prior(trained=False)
        x = 30 * fields(3, 1, 16, 24)
        assert torch.allclose(prior.denoise(x, 12.0), prior.reference.denoise(x, 12.0), atol=1e-3)

    def test_changes_low_frequencies_alone_and_only_above(self):
        prior = make_prior()
        x = 30 * fields(3, 1, 16, 16)
        change = torch.fft.fft2(prior.denoise(x, 12.0) - prior.reference.denoise(x, 12.0), norm="ortho").abs().amax((0, 1))
        assert float(change[2:-1, 2:-1].max()) < 1e-4 < 1e-2 < float(change[:2, :2].max())
        fine = NetworkPrior(prior.network, prior.parameterisation, (1, None, None), reference=prior.reference, multiple=2)
        assert torch.equal(prior.denoise(x, ABOVE), fine.denoise(x, ABOVE))
        mixed = prior.denoise(x, torch.tensor([1.0, 12.0, ABOVE]))
        alone = [prior.denoise(x[i : i + 1], s) for i, s in enumerate((1.0, 12.0, ABOVE))]
        assert torch.allclose(mixed, torch.cat(alone), atol=1e-4)

    def test_draws_without_data_begin_where_it_does_and_posteriors_do_not(self):
        prior = make_prior()
        assert (prior.sigma_max, prior.sigma_top) == (5.0, 80.0)
        seen = []
        denoise, prior.denoise = prior.denoise, lambda x, s: seen.append(float(torch.as_tensor(s).max())) or denoise(x, s)
        posterior.sample_prior(prior, draws=2, steps=4, event_shape=(1, 16, 16), dtype=torch.float32)
        assert seen[0] == pytest.approx(80.0) and seen[-1] == pytest.approx(0.01)


def make_start():
    """A Gaussian of coarse images of 4 x 4 pixels whose middle varies ten times as much as the rest."""
    where = torch.ones(4, 4)
    where[1:3, 1:3] = 10.0
    return EOFReference.fit(where * fields(4000, 1, 4, 4), 8)


class TestStart:
    def test_knows_where_things_are_for_images_of_its_size(self):
        prior = make_prior()
        prior.coarse = dataclasses.replace(prior.coarse, start=make_start())
        x = torch.zeros(600, 1, 16, 16)
        white = fields(600, 1, 16, 16)
        begun = prior.coarse.begin(x, white, 4.0)
        power = prior.coarse.restrict(begun).square().mean(0)[0]
        assert float(power[1:3, 1:3].mean() / power[[0, 0, 3, 3], [0, 3, 0, 3]].mean()) > 4
        assert torch.equal(prior.coarse.begin(x[..., :12], white[..., :12], 4.0), x[..., :12])

    def test_draws_begin_with_it_and_posteriors_do_not(self):
        prior = make_prior()
        plain = Problem(prior, None, (1, 16, 16))
        white = fields(3, 1, 16, 16)
        old = [plain.noised_prior(white, sigma) for sigma in (ABOVE, 50.0)]
        prior.coarse = dataclasses.replace(prior.coarse, start=make_start())
        new = [plain.noised_prior(white, sigma) for sigma in (ABOVE, 50.0)]
        assert torch.equal(old[0], new[0]) and not torch.allclose(old[1], new[1])


class TestFolder:
    def test_comes_back(self, tmp_path):
        prior = make_prior()
        prior.coarse = dataclasses.replace(prior.coarse, start=make_start())
        posterior.save_prior(prior, tmp_path / "p")
        back = posterior.load_prior(tmp_path / "p")
        x = 30 * fields(2, 1, 16, 16)
        assert torch.equal(back.denoise(x, 12.0), prior.denoise(x, 12.0))
        white = fields(2, 1, 16, 16)
        assert torch.allclose(back.coarse.begin(x, white, 9.0), prior.coarse.begin(x, white, 9.0), atol=1e-4)
        assert (back.coarse.factor, back.coarse.above, back.sigma_top) == (FACTOR, ABOVE, prior.sigma_top)

    def test_what_does_not_fit_is_refused(self, tmp_path):
        posterior.save_prior(make_prior(), tmp_path / "p")
        path = tmp_path / "p" / "posterior.json"
        config = json.loads(path.read_text())
        for about, words in (
            ({"factor": 1, "above": 3.0}, "factor is 1; wanted a whole number"),
            ({"factor": 4, "above": 100.0}, "above is 100.0; wanted less than its sigma_max, 80"),
            ({"factor": 4}, "is not understood: 'above'"),
            ({"factor": 4, "above": 3.0, "of": "../elsewhere"}, "that of '../elsewhere', which is no bundled prior"),
            ({"factor": 4, "above": 3.0, "of": ["brain-mri"]}, "which is no bundled prior"),
            ({"factor": 4, "above": 3.0, "of": "brain-mri"}, "2 channels; wanted a prior as the one it belongs to"),
        ):
            path.write_text(json.dumps(config | {"coarse": about}))
            with pytest.raises(ValueError, match=words):
                posterior.load_prior(tmp_path / "p")
        path.write_text(json.dumps(config))
        shutil.rmtree(tmp_path / "p" / "coarse")
        with pytest.raises(FileNotFoundError, match=r"coarse/posterior\.json is missing"):
            posterior.load_prior(tmp_path / "p")

    def test_may_be_that_of_a_bundled_prior(self):
        flow, lender = (posterior.load_prior(name) for name in ("brain-mri-flow", "brain-mri"))
        assert not (resource("priors", "brain-mri-flow") / "coarse").exists()
        noisy, sigma = 50 * torch.randn(1, 2, 64, 64, generator=torch.Generator().manual_seed(0)), torch.tensor([50.0])
        with torch.no_grad():
            found, want = (p.coarse.denoise(noisy, sigma, lender.reference) for p in (flow, lender))
        assert torch.equal(found, want) and flow.sigma_top == lender.sigma_top

    @pytest.mark.parametrize("affine", [Affine(4.0, 5.0), Affine(torch.full((1, 4, 4), 4.0))], ids=["shift", "scale of many"])
    def test_affine_maps_that_it_would_drop_are_refused(self, affine):
        prior = make_coarse(False).prior
        prior.affine = affine
        with pytest.raises(ValueError, match="affine map of prior 'network' .* wanted one number as scale and no shift"):
            CoarseDenoiser(prior, FACTOR, ABOVE)

    def test_needs_a_reference(self):
        with pytest.raises(ValueError, match="needs a reference Gaussian"):
            NetworkPrior(make_unet(), GaussianResidual(reference()), (1, None, None), coarse=make_coarse(False))
