"""Priors asked of fields in other orientations."""

import pytest
import torch

import operators
import posterior
from posterior.priors.conditioning import Condition, Conditioned
from posterior.priors.loading import load_prior, save_prior
from posterior.priors.network import NetworkPrior
from posterior.priors.parameterisations import EDM
from posterior.priors.symmetries import SYMMETRIES, composed, turn
from posterior.recipes.training.build import build_prior, standardise
from posterior.recipes.training.config import read_config
from posterior.recipes.training.data import Fields
from tests.priors.made_priors import fields, make_prior, make_unet
from tests.priors.test_loading_refusals import edit_json

ALL = range(2 ** len(SYMMETRIES))


def lopsided(size=(8, 8)):
    """A prior that says it has all symmetries, and whose network has none."""
    return NetworkPrior(make_unet(), EDM(0.7), (1, *size), multiple=2, symmetries=SYMMETRIES, rms=0.7)


@pytest.mark.parametrize("size", [(8, 8), (6, 8)], ids=["square", "oblong"])
def test_every_orientation_is_another_and_is_turned_back(size):
    x = fields(2, 1, *size)
    seen = [turn(x, composed(SYMMETRIES, k)) for k in ALL]
    assert all(torch.equal(turn(v, composed(SYMMETRIES, k), back=True), x) for k, v in zip(ALL, seen, strict=True))
    different = {tuple(v.flatten().tolist()) for v in seen}
    assert len(different) == (8 if size[0] == size[1] else 4)  # an oblong field is never transposed
    assert all(v.shape == x.shape for v in seen)


@pytest.mark.parametrize("number", ALL)
def test_a_network_is_asked_of_the_turned_field(number):
    prior, x, parts = lopsided(), fields(2, 1, 8, 8), composed(SYMMETRIES, number)
    wanted = turn(prior.denoise(turn(x, parts), 0.5), parts, back=True)
    found = prior.oriented(number)
    torch.testing.assert_close(found.denoise(x, 0.5), wanted)
    assert (found is prior) == (number == 0)
    assert found.network is prior.network
    if number:
        assert not torch.allclose(wanted, prior.denoise(x, 0.5), atol=1e-3)


def test_orientations_come_round_again():
    prior = lopsided()
    assert prior.oriented(8) is prior
    assert torch.equal(
        prior.oriented(3).oriented(11).denoise(fields(1, 1, 8, 8), 1.0), prior.oriented(3).denoise(fields(1, 1, 8, 8), 1.0)
    )


def test_a_prior_without_symmetries_stays_as_it_is():
    plain, exact = make_prior(), posterior.GaussianPrior(torch.zeros(1, 4, 4), torch.ones(4, 4))
    assert all(p.oriented(k) is p for p in (plain, exact) for k in ALL)


def test_a_symmetry_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="prior 'network': symmetry 'rotate'; known: flip-x, flip-y, transpose"):
        NetworkPrior(make_unet(), EDM(), (1, 8, 8), symmetries=("rotate",))


def test_channels_that_would_not_be_turned_are_refused():
    told = Conditioned(make_unet(2), Condition(channels=fields(1, 8, 8)))
    with pytest.raises(ValueError, match="prior 'network': symmetries of a network that is told channels"):
        NetworkPrior(told, EDM(), (1, 8, 8), symmetries=("flip-x",))
    assert NetworkPrior(told, EDM(), (1, 8, 8)).symmetries == ()


def test_a_network_without_parameters_is_asked_in_the_precision_of_the_field():
    class Nothing(torch.nn.Module):
        def forward(self, x, time):
            return 0 * x

    x = fields(2, 1, 8, 8).double()
    torch.testing.assert_close(NetworkPrior(Nothing(), EDM(), (1, 8, 8)).denoise(x, 1.0), x / 2)


def test_symmetries_travel_with_the_prior(tmp_path):
    save_prior(lopsided(), tmp_path / "all")
    save_prior(make_prior(), tmp_path / "none")
    assert load_prior(tmp_path / "all").symmetries == SYMMETRIES
    assert load_prior(tmp_path / "none").symmetries == ()


@pytest.mark.parametrize("value", [["rotate"], "flip-x", 3, [["flip-x"]]])
def test_a_folder_that_lies_about_them_is_refused(tmp_path, value):
    save_prior(lopsided(), tmp_path)
    edit_json(tmp_path / "posterior.json", symmetries=value)
    with pytest.raises(ValueError, match="posterior.json is not understood"):
        load_prior(tmp_path)


CONFIG = """
name = "mirrored"
summary = "fields that may be mirrored"
licence = "Apache-2.0"
[data]
file = "fields.npy"
train = [[0, 3]]
develop = [[4, 5]]
[network]
channels = [8, 16]
groups = 4
[training]
steps = 1
augment = ["flip-y", "roll-x"]
"""


def test_what_training_mirrors_is_a_symmetry(tmp_path):
    (tmp_path / "mirrored.toml").write_text(CONFIG)
    config = read_config(tmp_path / "mirrored.toml")
    given = Fields(fields(4, 1, 8, 8).double(), fields(2, 1, 8, 8).double(), None, None, "1", None)
    assert build_prior(config, given, standardise(given, config.mean)).symmetries == ("flip-y",)


class Watched(torch.nn.Module):
    """The network of `lopsided`, and the corner of the bright half that each call saw."""

    def __init__(self):
        super().__init__()
        self.inner, self.seen = make_unet(), []

    def forward(self, x, time):
        halves = [x[..., :4, :4], x[..., :4, 4:], x[..., 4:, :4], x[..., 4:, 4:]]
        self.seen.append(int(torch.stack([v.mean() for v in halves]).argmax()))
        return self.inner(x, time).sample


def corners(sampler):
    prior = lopsided()
    prior.network = Watched()
    truth = torch.zeros(1, 1, 8, 8)
    truth[..., :4, :4] = 100.0  # so bright that noise hides it nowhere
    posterior.sample(prior, posterior.GaussianLikelihood(operators.Inpainting(torch.ones(8, 8)), truth, 1e-3), sampler, draws=2)
    return prior.network.seen[-sampler.steps :]


def test_the_bridge_asks_in_another_orientation_at_each_step():
    turned = corners(posterior.GaussianBridge(8, sigma_max=2.0, sigma_min=0.1))
    assert turned == [0, 1, 2, 3, 0, 2, 1, 3]
    assert set(corners(posterior.GaussianBridge(8, sigma_max=2.0, sigma_min=0.1, equivariant=False))) == {0}


def test_draws_do_not_depend_on_the_batch():
    prior = lopsided()
    like = posterior.GaussianLikelihood(operators.Inpainting(torch.ones(8, 8)), fields(1, 1, 8, 8), 0.5)
    made = [posterior.sample(prior, like, posterior.GaussianBridge(3), draws=4, batch_size=b).samples for b in (1, 4)]
    torch.testing.assert_close(*made, rtol=0, atol=1e-5)


def test_settings_say_whether_it_turns():
    assert "equivariant=False" in repr(posterior.GaussianBridge(equivariant=False))


@pytest.mark.parametrize("name", ["brain-mri", "brain-mri-flow", "galaxies"])
def test_bundled_priors_of_turned_images_have_them(name):
    assert posterior.load_prior(name).symmetries == SYMMETRIES


def test_weather_has_none():
    assert posterior.load_prior("slp-north-atlantic").symmetries == ()
