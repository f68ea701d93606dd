"""No public sampler is left out of the invariants."""

import posterior
from posterior.samplers.base import Sampler
from tests.invariants.setting import POPULATIONS, SAMPLERS, called


def test_every_public_sampler_is_held_to_the_invariants():
    public = {name for name in posterior.__all__ if isinstance(getattr(posterior, name), type)}
    samplers = {name for name in public if issubclass(getattr(posterior, name), Sampler)}
    # Guided is the frame that guidances are put in: it draws nothing without one
    assert samplers - {"Guided"} == {called(name) for name in SAMPLERS}
    assert {name for name in samplers if getattr(posterior, name).population} == POPULATIONS
