"""Conditional networks: what they are told, in which batch, and how guidance mixes two answers."""

import deepinv
import pytest
import torch

import posterior
from posterior.priors.conditioning import Condition, Conditioned
from posterior.priors.network import NetworkPrior
from posterior.priors.parameterisations import EDM


class Probe(torch.nn.Module):
    """Keeps what it is told and answers with the label."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()), requires_grad=False)
        self.seen = []

    def forward(self, inputs, timestep, **told):
        self.seen.append((inputs, timestep, told))
        return torch.ones_like(inputs[:, :1]) * told.get("class_labels", torch.zeros(())).reshape(-1, 1, 1, 1)


X, T = torch.ones(3, 1, 4, 6), torch.full((3,), 2.0)


def test_everything_reaches_the_network_for_every_member_of_the_batch():
    mask, tokens, pooled = torch.zeros(2, 4, 6), torch.randn(5, 8, generator=torch.Generator()), torch.arange(4.0)
    probe = Probe()
    out = Conditioned(probe, Condition(3, mask, tokens, pooled))(X, T)
    inputs, time, told = probe.seen[0]
    assert (out == 3).all()
    assert inputs.shape == (3, 3, 4, 6)
    assert (inputs[:, :1] == 1).all()
    assert (inputs[:, 1:] == 0).all()
    assert time is T
    assert told["class_labels"].tolist() == [3, 3, 3]
    assert told["encoder_hidden_states"].shape == (3, 5, 8)
    torch.testing.assert_close(told["pooled_projections"], pooled.expand(3, 4))


def test_channels_are_padded_with_the_field():
    """Where a U-Net wants sides that are multiples, field and mask get them together."""
    probe, mask = Probe(), torch.arange(15.0).reshape(1, 3, 5)
    prior = NetworkPrior(Conditioned(probe, Condition(channels=mask)), EDM(), (1, 3, 5), multiple=4)
    assert prior.denoise(torch.ones(2, 1, 3, 5), 1.0).shape == (2, 1, 3, 5)
    inputs = probe.seen[0][0]
    assert inputs.shape == (2, 2, 4, 8)
    torch.testing.assert_close(inputs[1, 1, :3, :5], mask[0])
    assert inputs[:, 1].sum() == 2 * mask.sum()


def test_channels_smaller_than_the_field_are_not_padded():
    prior = NetworkPrior(Conditioned(Probe(), Condition(channels=torch.ones(1, 2, 5))), EDM(), (1, 3, 5), multiple=4)
    with pytest.raises(ValueError, match=r"channels are \(1, 2, 5\); the field is 3 x 5"):
        prior.denoise(torch.ones(2, 1, 3, 5), 1.0)


def test_guidance_is_off_by_default_and_mixes_where_asked():
    told = Condition(label=5, free=Condition(label=2))
    probe = Probe()
    assert (Conditioned(probe, told)(X, T) == 5).all()
    assert len(probe.seen) == 1
    strong = Condition(label=5, free=Condition(label=2), guidance=3.0)
    assert (Conditioned(Probe(), strong)(X, T) == 2 + 3 * (5 - 2)).all()


@pytest.mark.parametrize(("weight", "calls"), [(1.0, 1), (3.0, 2)])
def test_both_network_calls_of_guidance_are_counted(weight, calls):
    probe = Probe()
    network = Conditioned(probe, Condition(label=5, free=Condition(label=2), guidance=weight))
    prior = NetworkPrior(network, EDM(), (1, 4, 4), sigma_range=(0.02, 20.0))
    like = posterior.GaussianLikelihood(deepinv.physics.Denoising(), torch.zeros(1, 1, 4, 4), 1.0)
    stats = posterior.sample(prior, like, posterior.DAPS(steps=3, ode_steps=1), draws=2, batch_size=2).stats
    assert len(probe.seen) == calls * 3
    assert stats.nfe == calls * 3


def test_the_condition_is_part_of_the_weights():
    """So that checkpoints of two runs with different labels are told apart."""
    a, b = (Conditioned(Probe(), Condition(label=n)).state_dict() for n in (1, 2))
    assert a["told.label"] != b["told.label"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Condition(), "wanted a label, channels, tokens or pooled"),
        (lambda: Condition(label=-1), "label is -1"),
        (lambda: Condition(channels=torch.zeros(4, 4)), r"channels has shape \(4, 4\); wanted 3 axes"),
        (lambda: Condition(tokens=torch.full((2, 2), torch.nan)), "finite"),
        (lambda: Condition(label=1, guidance=2.0), r"guidance of 2.0 needs free=Condition\(label=\)"),
        (lambda: Condition(label=1, guidance=2.0, free=Condition(pooled=torch.ones(2))), "needs free="),
    ],
)
def test_conditions_that_make_no_sense_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_channels_larger_than_the_field_are_refused():
    with pytest.raises(ValueError, match=r"channels are \(1, 8, 8\), the field \(1, 4, 6\)"):
        Conditioned(Probe(), Condition(channels=torch.zeros(1, 8, 8)))(X, T)
