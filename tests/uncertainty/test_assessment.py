"""All diagnostics at once, and the room's public names."""

import json
import subprocess
import sys

import pytest
import torch

import posterior.uncertainty
from benchmarks.diagnostics import Toy
from posterior.uncertainty import Trial, Trials, assess, region_means
from tests.uncertainty.normal_trials import plain


def above(x):
    return (x > 0.5).flatten(1)


def test_exact_samples_pass_and_faults_do_not():
    toy = Toy.make()
    whole = assess(toy.trials("exact", 100), event=above)
    assert whole.passed() and not whole.left_out
    assert len(whole.findings) == 13 and whole.p_value == min(1, 13 * min(f.p_value for f in whole.findings.values()))
    lines = str(whole).splitlines()
    assert len(lines) == 14 and lines[0].startswith("100 trials, 13 diagnostics, p = ")
    record = json.loads(json.dumps(whole.record(), allow_nan=False))
    assert record["passed"] and set(record["findings"]) == set(whole.findings)
    curve = record["findings"]["coverage of pixels"]["curve"]
    assert curve["at"] == [0.5, 0.8, 0.9, 0.95] and all(map(lambda low, v: low <= v, curve["lower"], curve["values"]))
    prior = assess(toy.trials("prior only", 100), event=above)
    assert not prior.passed() and not prior.findings["TARP"].passed() and prior.findings["SBC pixels"].passed()
    assert "NOT consistent with exact samples" in str(prior)


def test_what_is_missing_is_named():
    g = torch.Generator().manual_seed(0)
    trials = Trials(Trial(x[0], x[1:]) for x in torch.randn(30, 8, 1, generator=g))
    found = assess(trials)
    assert set(found.left_out) == {"TARP", "sparsification", "reliability"}
    assert set(found.findings) == {"SBC pixels", "coverage of pixels", "SBC extremes", "CRPS", "spread-skill"}
    assert "TARP: left out, the trials have no reference" in str(found)
    with pytest.raises(ValueError, match="there are 5 trials"):
        assess(Trials(list(trials)[:5]))


def test_a_finding_never_takes_the_place_of_another():
    trials = plain(20, 9, (4, 4))
    whole = {"whole": torch.ones(4, 4)}
    with pytest.raises(ValueError, match="several quantities are called 'region means'; wanted names of their own"):
        assess(trials, [region_means(whole)], regions=whole)


def test_a_view_and_regions():
    """Pixels are judged as the view shows them, the rest on whole events."""
    toy = Toy.make()
    trials = toy.trials("exact", 60)
    half = torch.ones(6, 6)
    half[:, 3:] = 0
    found = assess(trials, regions={"left": half}, view=lambda t: Trial(t.truth[:, :3], t.draws[:, :, :3]))
    assert found.passed(), str(found)
    assert found.findings["SBC pixels"].values.shape == (60, 18)
    assert found.findings["coverage of region means"].trials == 60 and "90 %" in str(found.findings["coverage of region means"])
    assert found.left_out == {"sparsification": "events have fewer than 20 values", "reliability": "no event was given"}


def test_every_public_name_is_there():
    for name in posterior.uncertainty.__all__:
        assert getattr(posterior.uncertainty, name), name
    with pytest.raises(AttributeError, match="none"):
        _ = posterior.uncertainty.none


def test_the_room_is_cheap_to_import():
    code = (
        "import sys, posterior.uncertainty\n"
        "assert not {'torch', 'scipy', 'numpy'} & set(sys.modules), 'heavy'\n"
        "posterior.uncertainty.sbc, posterior.uncertainty.StreamingMoments\n"
        "assert not {'scipy', 'deepinv', 'matplotlib', 'xarray', 'scoringrules'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
