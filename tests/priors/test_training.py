"""The training loop: objectives, batches, resuming after a kill, several processes."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from posterior.priors.base import column
from posterior.priors.network import NetworkPrior
from posterior.priors.parameterisations import GaussianResidual, GaussianResidualFlow, Velocity
from posterior.priors.training import TrainingSettings, batches_of, train
from posterior.priors.training.objectives import denoising_errors, held_out_score, loss, noised

ROOT = Path(__file__).parents[2]
JOB = Path(__file__).with_name("training_job.py")
_spec = importlib.util.spec_from_file_location("training_job", JOB)
job = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(job)


@pytest.fixture(autouse=True)
def one_thread():
    """Sums are in one order, here and in other processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def weights(prior):
    return prior.network.state_dict()


def assert_same(a, b, **tolerance):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], **({"rtol": 0, "atol": 0} | tolerance))


class TestSettings:
    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"objective": "magic"}, "objective is 'magic'; wanted 'denoising' or 'flow'"),
            ({"steps": 0}, "steps is 0; wanted a whole number of at least 1"),
            ({"warmup": 1.5}, "warmup is 1.5"),
            ({"learning_rate": -1.0}, "learning_rate is -1.0; wanted a positive number"),
            ({"sigma_min": 3.0, "sigma_max": 2.0}, "sigma from 3.0 to 2.0"),
            ({"ema": 1.0}, "ema is 1.0"),
        ],
    )
    def test_out_of_range_is_refused(self, changes, says):
        with pytest.raises(ValueError, match=says):
            TrainingSettings(**{"steps": 5} | changes)

    def test_rate_warms_up_and_falls_to_zero(self):
        made = TrainingSettings(steps=100, learning_rate=2.0, warmup=10)
        rates = [made.rate(s) for s in range(100)]
        assert rates[0] == pytest.approx(0.2)
        assert max(rates) == rates[9] == rates[10] == 2.0
        assert rates[55] == pytest.approx(1.0)
        assert rates[-1] < 1e-3


class TestObjectives:
    def test_flow_loss_is_the_error_of_the_velocity(self):
        """For a velocity network: mean |v(x_t, t) - (eps - x0)|^2 on the straight path."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            network = torch.nn.Conv2d(1, 1, 3, padding=1)

        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = network

            def forward(self, x, time):
                return self.inner(x) + 0.01 * time.reshape(-1, 1, 1, 1)

        prior = NetworkPrior(Net(), Velocity(), job.SHAPE)
        made = TrainingSettings(steps=1, objective="flow", sigma_min=0.01, sigma_max=50.0)
        clean = job.fields(64, 2)
        noisy, sigma = noised(clean, 0, made)
        t = sigma / (1 + sigma)
        tc = column(t, clean)
        x_t, noise = (1 - tc) * noisy, (noisy - clean) / column(sigma, clean)
        with torch.no_grad():
            want = (prior.network(x_t, 1000 * t) - (noise - clean)).square().mean()
            torch.testing.assert_close(loss(prior, clean, noisy, sigma, made), want, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("objective", ["denoising", "flow"])
    def test_levels_are_spread_as_stated(self, objective):
        made = TrainingSettings(steps=1, objective=objective, sigma_min=0.1, sigma_max=10.0)
        _, sigma = noised(torch.zeros(2000, 1, 1, 1), 3, made)
        place = sigma.log() if objective == "denoising" else sigma / (1 + sigma)
        low, high = (np.log(0.1), np.log(10)) if objective == "denoising" else (0.1 / 1.1, 10 / 11)
        even = torch.linspace(low, high, 2000)
        assert (place.sort().values - even).abs().max() < 2e-3 * (high - low)

    def test_the_flow_form_of_the_residual_is_the_same_denoiser(self):
        score, flow = job.make_prior(GaussianResidual), job.make_prior(GaussianResidualFlow)
        x = job.fields(4, 5)
        with torch.no_grad():
            score.network.second.weight += 0.3
            flow.network.second.weight += 0.3
            for sigma in (1e-2, 1.0, 50.0):
                torch.testing.assert_close(flow.denoise(x, sigma), score.denoise(x, sigma), rtol=1e-3, atol=1e-4)
            t = torch.full((4,), 0.3)
            d = score.denoise(x / 0.7, 0.3 / 0.7)
            torch.testing.assert_close(flow.parameterisation.velocity(flow._call, x, t), (x - d) / 0.3, rtol=1e-3, atol=1e-4)

    def test_an_untrained_residual_is_as_good_as_its_reference(self):
        prior = job.make_prior()
        assert held_out_score(prior, job.fields(50, 1), (0.1, 1.0)) == pytest.approx(1, abs=1e-3)

    def test_errors_do_not_depend_on_the_batch(self):
        prior, x = job.make_prior(), job.fields(10, 1)
        torch.testing.assert_close(denoising_errors(prior, x, 0.5, batch=3), denoising_errors(prior, x, 0.5, batch=10))


class TestBatches:
    def test_every_field_comes_once_before_any_comes_again(self):
        batches = batches_of(torch.arange(10.0)[:, None], 4, seed=1)
        seen = torch.cat([batches(step) for step in range(5)]).flatten()
        assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
        assert seen[:10].tolist() != seen[10:].tolist()
        torch.testing.assert_close(batches(3), seen[12:16, None])

    def test_an_iterable_is_gone_through_again_and_can_be_entered_anywhere(self):
        items = [np.full((2, 1), float(i)) for i in range(3)]
        batches = batches_of(items)
        assert [float(batches(s)[0]) for s in (0, 1, 2, 3, 4)] == [0, 1, 2, 0, 1]
        assert float(batches_of(items)(4)[0]) == 1
        assert float(batches(1)[0]) == 1

    def test_no_field_of_an_iterable_keeps_its_place(self):
        """Noise levels are stratified by place: a field that kept its own would only ever be seen at a few of them."""
        batches = batches_of([torch.arange(4.0)[:, None]])
        places = [batches(step).flatten().tolist().index(0.0) for step in range(40)]
        assert set(places) == {0, 1, 2, 3}
        assert all(sorted(batches(step).flatten().tolist()) == [0, 1, 2, 3] for step in range(3))
        torch.testing.assert_close(batches(5), batches(5))

    def test_an_iterator_that_ends_is_refused(self):
        batches = batches_of(iter([np.zeros((2, 1))]))
        batches(0)
        with pytest.raises(ValueError, match="gone through only once"):
            batches(1)

    def test_augmentation_keeps_values_and_depends_on_the_step_alone(self):
        data = torch.arange(24.0).reshape(2, 1, 3, 4)
        batches = batches_of(data, 2, augment=("flip-x", "roll-y"))
        got = batches(5)
        torch.testing.assert_close(got, batches(5))
        assert any(not torch.equal(batches(s), batches_of(data, 2)(s)) for s in range(4))
        torch.testing.assert_close(got.flatten(1).sort(1).values.sum(), data.sum())

    def test_what_cannot_be_is_refused(self):
        with pytest.raises(ValueError, match="augmentation 'turn'; known: flip-x"):
            batches_of(torch.zeros(3, 1), 2, augment=("turn",))
        with pytest.raises(ValueError, match="batches of None from 3 fields"):
            batches_of(torch.zeros(3, 1))


class TestTraining:
    @pytest.mark.parametrize("objective", ["denoising", "flow"])
    def test_beats_the_reference_on_held_out_fields(self, objective, tmp_path):
        made = {
            "steps": 600,
            "learning_rate": 0.01,
            "validate_every": 0,
            "checkpoint_every": 600,
            "sigma_min": 1.5,
            "sigma_max": 6.0,
        }
        prior = job.run(tmp_path, objective=objective, **made)
        assert held_out_score(prior, job.fields(40, 1), (2.0,)) < 0.95
        assert not prior.network.training
        assert not any(p.requires_grad for p in prior.network.parameters())
        assert len((tmp_path / "loss.csv").read_text().splitlines()) == 600

    def test_result_is_the_best_on_held_out_fields(self, tmp_path):
        prior = job.make_prior()
        batches = batches_of(job.fields(200, 0), 8)
        # Fields of another distribution from step 12 on.
        made = job.settings(steps=24, warmup=0)
        train(prior, lambda s: batches(s) * (1 if s < 12 else 30), made, tmp_path, held_out=job.fields(40, 1))
        rows = [line.split(",") for line in (tmp_path / "validation.csv").read_text().splitlines()]
        assert [int(step) for step, _ in rows] == [0, 6, 12, 18, 24]
        best = min(float(score) for _, score in rows)
        assert held_out_score(prior, job.fields(40, 1), (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)) == pytest.approx(best, rel=1e-4)
        assert best < float(rows[-1][1])

    def test_killed_and_started_again_it_ends_with_the_same_weights(self, tmp_path):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        killed = subprocess.Popen(
            [sys.executable, str(JOB), str(tmp_path / "killed"), "17"], env=environment, stdout=subprocess.PIPE, text=True
        )
        assert killed.stdout.readline() == "here\n"
        killed.send_signal(signal.SIGKILL)
        killed.stdout.close()
        assert killed.wait() == -signal.SIGKILL
        state = torch.load(tmp_path / "killed" / "checkpoint.pt", weights_only=True)
        assert state["step"] == 16
        resumed, whole = job.run(tmp_path / "killed"), job.run(tmp_path / "whole")
        assert_same(weights(resumed), weights(whole))
        for name in ("loss.csv", "validation.csv"):
            assert (tmp_path / "killed" / name).read_text() == (tmp_path / "whole" / name).read_text()

    def test_killed_between_curves_and_checkpoint(self, tmp_path):
        job.run(tmp_path / "a", steps=30)

        def stop(step):
            if step == 10:
                raise KeyboardInterrupt
            return batches_of(job.fields(200, 0), 8, seed=3)(step)

        with pytest.raises(KeyboardInterrupt):
            train(job.make_prior(), stop, job.settings(), tmp_path / "b", held_out=job.fields(40, 1))
        with (tmp_path / "b" / "loss.csv").open("a") as f:
            f.write("8,1.0\n9,1.0\n")
        job.run(tmp_path / "b")
        assert (tmp_path / "b" / "loss.csv").read_text() == (tmp_path / "a" / "loss.csv").read_text()

    def test_a_folder_of_another_run_is_refused(self, tmp_path):
        job.run(tmp_path, steps=4)
        with pytest.raises(ValueError, match="holds a run made with other settings"):
            job.run(tmp_path, steps=5)

    def test_validation_needs_held_out_fields(self, tmp_path):
        with pytest.raises(ValueError, match="validate_every is 6, but nothing is held out"):
            train(job.make_prior(), lambda _: job.fields(4, 0), job.settings(), tmp_path)

    def test_any_seed_below_2_63_is_one(self, tmp_path):
        made = job.settings(steps=1, seed=1_732_780_000_000_000_000, validate_every=0)
        train(job.make_prior(), lambda _: job.fields(4, 0), made, tmp_path)

    def test_a_loss_that_is_not_finite_ends_the_run(self, tmp_path):
        with pytest.raises(FloatingPointError, match="the loss is nan at step 0"):
            train(job.make_prior(), lambda _: job.fields(4, 0) * torch.nan, job.settings(validate_every=0), tmp_path)

    @pytest.mark.slow
    def test_two_processes_end_with_the_weights_of_one(self, tmp_path):
        """Dropout aside, which differs by process, they share one batch and its noise."""
        pytest.importorskip("accelerate")
        script = tmp_path / "two.py"
        script.write_text(
            f"import importlib.util, sys, torch\n"
            f"spec = importlib.util.spec_from_file_location('training_job', {str(JOB)!r})\n"
            "job = importlib.util.module_from_spec(spec); spec.loader.exec_module(job)\n"
            "job.Small.__init__.__globals__['torch'].nn.Dropout = lambda p: torch.nn.Identity()\n"
            "prior = job.run(sys.argv[1])\n"
            'torch.save(prior.network.state_dict(), sys.argv[1] + f\'/result{__import__("os").environ.get("RANK", "0")}.pt\')\n'
        )
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29731"]
        for name, start in (("one", [sys.executable]), ("two", launch)):
            (tmp_path / name).mkdir()
            subprocess.run([*start, str(script), str(tmp_path / name)], env=environment, check=True, capture_output=True)
        one = torch.load(tmp_path / "one" / "result0.pt", weights_only=True)
        for rank in (0, 1):
            assert_same(torch.load(tmp_path / "two" / f"result{rank}.pt", weights_only=True), one, rtol=1e-3, atol=1e-5)
