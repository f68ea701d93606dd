"""Masks and coordinates that travel with a prior."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import xarray as xr

from posterior.priors.base import Affine
from posterior.priors.coarse import CoarseDenoiser
from posterior.priors.labels import Labels
from posterior.priors.latent import LatentPrior
from posterior.priors.loading import load_prior, save_prior
from posterior.priors.parameterisations import EDM, GaussianResidual, Velocity
from posterior.priors.reference import EOFReference
from tests.priors.made_priors import denoised, fields, make_prior, reference

SHAPE = (1, 8, 8)
SEA = torch.ones(SHAPE, dtype=torch.bool)
SEA[..., :2] = False
COAST = SEA.clone()
COAST[:, 0] = False


def eofs(mask, shape=SHAPE):
    made = fields(200, *shape).double()
    return EOFReference.fit(made if mask is None else made * mask, 5, mask=mask)


@pytest.mark.parametrize("own", [None, SEA, COAST], ids=["no mask", "sea", "coast"])
@pytest.mark.parametrize("labelled", ["bare", None, SEA], ids=["no labels", "labels", "labels with a mask"])
def test_a_reference_keeps_its_own_mask(own, labelled, tmp_path):
    labels = None if isinstance(labelled, str) else Labels("t", ("channel", "y", "x"), mask=labelled)
    prior = make_prior(reference=eofs(own), labels=labels)
    save_prior(prior, tmp_path)
    found = load_prior(tmp_path)
    x = fields(2, *SHAPE).double()
    torch.testing.assert_close(found.reference.denoise(x, 0.5), prior.reference.denoise(x, 0.5), rtol=1e-5, atol=1e-6)
    assert (found.reference.mask is None) == (own is None)
    assert own is None or torch.equal(found.reference.mask, own)
    if labels is not None and labelled is not None:
        assert torch.equal(found.labels.mask, labelled)


def test_a_residual_on_a_gaussian_of_other_points_is_refused(tmp_path):
    own = eofs(SEA)
    prior = make_prior("gaussian-residual", reference=dataclasses.replace(own, mask=None))
    prior.parameterisation = GaussianResidual(own)
    with pytest.raises(ValueError, match="another Gaussian than that of its parameterisation"):
        save_prior(prior, tmp_path / "p")
    prior.reference = own.with_errors(torch.tensor([0.1, 1.0]).double(), torch.ones(2, 6).double())
    save_prior(prior, tmp_path / "p")
    assert load_prior(tmp_path / "p").reference.measured


def test_what_coarse_images_begin_with_keeps_its_mask(tmp_path):
    mask = torch.ones(1, 4, 4, dtype=torch.bool)
    mask[..., 0] = False
    start = eofs(mask, (1, 4, 4))
    coarse = CoarseDenoiser(make_prior(affine=Affine(2.0)), 2, 3.0, start)
    save_prior(make_prior(reference=reference(), coarse=coarse), tmp_path)
    assert torch.equal(load_prior(tmp_path).coarse.start.mask, mask)


TIMES = np.array(["1979-01-01T06:30", "2020-02-29"], dtype="datetime64[ns]")
SPANS = np.array([0, 21600], dtype="timedelta64[s]")


@pytest.mark.parametrize("values", [TIMES, TIMES.astype("datetime64[s]"), SPANS, SPANS.astype("timedelta64[ns]")])
def test_times_come_back_as_times(values, tmp_path):
    labels = Labels("t", ("channel", "time", "x"), {"time": xr.DataArray(values, dims="time", attrs={"axis": "T"})})
    saved = make_prior()
    saved.event_shape, saved.labels = (1, 2, 8), labels
    save_prior(saved, tmp_path)
    xr.testing.assert_identical(load_prior(tmp_path).labels.coords["time"], labels.coords["time"])


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("datetime64[ns]", [0, 1]),
        ("datetime64[ns]", ["soon", "2020"]),
        ("timedelta64[s]", ["a", "b"]),
        ("O", [0, 1]),
        ([1], [0, 1]),
    ],
)
def test_times_that_are_none_are_refused(kind, values, tmp_path):
    saved = make_prior()
    saved.event_shape, saved.labels = (1, 2, 8), Labels("t", ("channel", "time", "x"), {"time": TIMES})
    save_prior(saved, tmp_path)
    path = tmp_path / "posterior.json"
    config = json.loads(path.read_text())
    config["labels"]["coords"]["time"] |= {"kind": kind, "values": values}
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"posterior\.json is not understood"):
        load_prior(tmp_path)


@pytest.mark.parametrize(
    "parameterisation", [Velocity(torch.tensor(37.0)), Velocity(37, np.True_), EDM(np.float32(0.5))], ids=["0-d", "bool", "edm"]
)
def test_settings_that_are_scalars_of_numpy_and_torch_come_back(parameterisation, tmp_path):
    prior = make_prior()
    prior.parameterisation = parameterisation
    save_prior(prior, tmp_path)
    torch.testing.assert_close(denoised(load_prior(tmp_path)), denoised(prior), rtol=1e-4, atol=1e-5)


def test_maps_and_full_bases_that_fit_an_event_come_back(tmp_path):
    full = EOFReference.fit(fields(200, *SHAPE).double())
    points = full.vectors.shape[0]
    prior = make_prior(affine=Affine(torch.arange(1.0, 9.0), fields(8, 8)), reference=dataclasses.replace(full, rest=0.0))
    assert full.vectors.shape[1] == points
    save_prior(prior, tmp_path)
    found, x = load_prior(tmp_path), fields(2, 1, 8, 8)
    torch.testing.assert_close(found.affine.to_physical(x), prior.affine.to_physical(x))
    torch.testing.assert_close(found.reference.denoise(x, 0.5), prior.reference.denoise(x, 0.5), rtol=1e-4, atol=1e-5)


def test_a_latent_prior_is_not_saved_without_its_autoencoder(tmp_path):
    prior = object.__new__(LatentPrior)
    prior.__dict__ |= vars(make_prior())
    with pytest.raises(TypeError, match="no place for its autoencoder"):
        save_prior(prior, tmp_path / "p")
    assert not (tmp_path / "p").exists()
