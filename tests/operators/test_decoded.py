"""An operator behind a decoder."""

import copy

import deepinv
import pytest
import torch

import operators
import posterior

# torch's own, on the first derivative along a direction
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")
MIX = torch.tensor([[2.0, 0.5], [0.0, 1.0]])


class Linear(torch.nn.Module):
    """x = M z + 1, in single precision."""

    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Parameter(MIX.clone(), requires_grad=False)

    def forward(self, z):
        return (z.float() @ self.mix.T + 1).to(z.dtype)


def test_sees_the_decoded_field():
    operator = operators.DecodedOperator(deepinv.physics.Denoising(), Linear())
    z = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(operator.A(z), torch.tensor([[4.0, 3.0]], dtype=torch.float64))
    torch.testing.assert_close(operator.A_jvp(z, z), torch.tensor([[3.0, 2.0]], dtype=torch.float64))


def test_decoder_keeps_its_precision():
    decoder = Linear()
    operator = copy.deepcopy(operators.DecodedOperator(deepinv.physics.Denoising(), decoder)).double()
    assert operator.decoder.mix.dtype == torch.float32
    assert decoder.mix.dtype == torch.float32


def test_posterior_of_latents_is_that_of_the_linear_problem():
    """With a linear decoder the posterior of z is known: N(z; 0, I) and y = M z + 1 + 0.3 eps."""
    prior = posterior.GaussianPrior(torch.zeros(2), torch.eye(2))
    y = torch.tensor([[2.0, 0.5]])
    like = posterior.GaussianLikelihood(operators.DecodedOperator(deepinv.physics.Denoising(), Linear()), y, 0.3)
    draws = posterior.sample(prior, like, posterior.MMPS(steps=50), draws=800, batch_size=800)
    precision = torch.eye(2) + MIX.T @ MIX / 0.09
    mean = torch.linalg.solve(precision, MIX.T @ (y[0] - 1) / 0.09)
    torch.testing.assert_close(draws.mean, mean, rtol=0, atol=0.03)
    torch.testing.assert_close(draws.std, torch.linalg.inv(precision).diagonal().sqrt(), rtol=0.12, atol=0)


def test_parts_of_another_kind_are_refused():
    with pytest.raises(TypeError, match="physics is a Linear; wanted a deepinv Physics"):
        operators.DecodedOperator(Linear(), Linear())
    with pytest.raises(TypeError, match="decoder is a int"):
        operators.DecodedOperator(deepinv.physics.Denoising(), 3)
