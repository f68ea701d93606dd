"""A small training run, for tests in this process and in ones that are killed: ``python training_job.py FOLDER [STEP]``.

With STEP the process tells its parent at that step, and waits there to be killed.
"""

import sys
import time
from pathlib import Path

import torch

from posterior.priors.network import NetworkPrior
from posterior.priors.parameterisations import GaussianResidual, GaussianResidualFlow
from posterior.priors.reference import EOFReference
from posterior.priors.training import TrainingSettings, batches_of, train

SHAPE = (1, 6, 8)


class Small(torch.nn.Module):
    """Two convolutions with dropout between them, told the noise level."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(2, 8, 3, padding=1), torch.nn.Conv2d(8, 1, 3, padding=1)
        self.level, self.dropout = torch.nn.Linear(1, 8), torch.nn.Dropout(0.2)

    def forward(self, x, time):
        h = self.first(x) + self.level(time[:, None])[..., None, None]
        return self.second(self.dropout(torch.nn.functional.silu(h)))


def fields(count, seed):
    """Fields about +1 or -1 all over: far from Gaussian."""
    g = torch.Generator().manual_seed(seed)
    signs = (torch.rand(count, 1, 1, 1, generator=g) < 0.5).float() * 2 - 1
    return signs + 0.1 * torch.randn(count, *SHAPE, generator=g)


def make_prior(kind=GaussianResidual):
    reference = EOFReference.fit(fields(200, 0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Small()
    torch.nn.init.zeros_(network.second.weight)
    return NetworkPrior(network, kind(reference), SHAPE, reference=reference)


def settings(**changes):
    usual = {"steps": 30, "learning_rate": 1e-2, "warmup": 3, "ema": 0.9, "bfloat16": False, "checkpoint_every": 4}
    return TrainingSettings(**usual | {"validate_every": 6, "sigma_max": 10.0} | changes)


def run(folder, *, wait_at=None, objective="denoising", **changes):
    prior = make_prior(GaussianResidualFlow if objective == "flow" else GaussianResidual)
    batches = batches_of(fields(200, 0), 8, seed=3)

    def progress(step, _loss):
        if step == wait_at:
            sys.stdout.write("here\n")
            sys.stdout.flush()
            time.sleep(300)

    held_out = fields(40, 1)
    train(prior, batches, settings(objective=objective, **changes), Path(folder), progress, held_out=held_out)
    return prior


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(sys.argv[1], wait_at=int(sys.argv[2]) if len(sys.argv) > 2 else None)
