import pytest
import torch

import posterior
from tests.samplers.laws import Setting, errors, law

TIGHT = posterior.DataStep(tolerance=1e-12)


@pytest.fixture(scope="module")
def setting():
    return Setting()


def inflated(setting, rho):
    """The posterior of data whose noise is R + rho^2 A A^T."""
    noise = setting.variance + rho**2 * setting.matrix @ setting.matrix.T
    gain = setting.cov @ setting.matrix.T @ torch.linalg.inv(setting.matrix @ setting.cov @ setting.matrix.T + noise)
    mean = setting.mean + gain @ (setting.y[0] - setting.matrix @ setting.mean)
    return mean, setting.cov - gain @ setting.matrix @ setting.cov


@pytest.mark.parametrize("prior_steps", [1, 3])
def test_at_one_rho_it_converges_to_the_posterior_of_noisier_data(setting, prior_steps):
    sampler = posterior.PnPDM(60, prior_steps, data=TIGHT, sigma_max=0.8001, sigma_min=0.8)
    mean, cov = law(sampler, setting.problem())
    wanted = inflated(setting, 0.8)
    torch.testing.assert_close(mean, wanted[0], rtol=0, atol=1e-3)
    torch.testing.assert_close(cov, wanted[1], rtol=0, atol=1e-3)


def test_bias_vanishes_with_rho(setting):
    """Standard deviations that are 66, 23 and 6.5 % too wide at worst; the mean follows."""
    worst, shifts = [], []
    for rho, steps in ((0.4, 60), (0.2, 120), (0.1, 240)):
        shift, ratio = errors(
            law(posterior.PnPDM(steps, 1, anneal=0.5, sigma_min=rho, data=TIGHT), setting.problem()), setting.exact
        )
        worst.append(float(ratio.max()) - 1)
        shifts.append(shift)
        wide = (inflated(setting, rho)[1].diagonal().sqrt() / setting.exact.std).max()
        assert worst[-1] == pytest.approx(float(wide) - 1, abs=0.02)
    assert worst[0] > 2 * worst[1] > 4 * worst[2]
    assert shifts[0] > 2 * shifts[1] > 4 * shifts[2]
    assert worst == pytest.approx([0.657, 0.230, 0.065], abs=0.01)


def test_bias_of_the_default(setting):
    shift, ratio = errors(law(posterior.PnPDM(), setting.problem()), setting.exact)
    assert shift == pytest.approx(0.048, abs=0.01)
    assert 1.0 < float(ratio.min()) < float(ratio.max()) < 1.04


def test_rho_falls_and_stays(setting):
    levels = posterior.PnPDM(20, anneal=0.25, sigma_max=3.0, sigma_min=0.1).levels(setting.problem())
    assert len(levels) == 20
    assert levels[0] == 3.0
    assert levels[4:] == pytest.approx([0.1] * 16)
    assert all(a > b for a, b in zip(levels[:5], levels[1:5], strict=False))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior_steps": 0}, "PnPDM: prior_steps must be at least 1, got 0"),
        ({"anneal": 0.0}, "PnPDM: anneal must be above 0 and at most 1, got 0.0"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        posterior.PnPDM(4, **options)
