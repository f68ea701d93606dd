"""Maps, regions and streaming against numpy, known distributions and the draws all at once."""

import math

import numpy as np
import pytest
import torch

from posterior.draws import Draws, PointEstimateError, Stats
from posterior.uncertainty import (
    QuantileSketch,
    StreamingMoments,
    entropy,
    exceedance,
    highest_density,
    principal_components,
    summarise_regions,
)
from tests.uncertainty.normal_trials import normal

STATS = Stats(0, 0, 0.0, None, 0, "ok", "RED", "", "", {})


def weighted(draws, seed=1):
    return Draws(draws, STATS, log_weights=normal(len(draws), seed=seed))


def doubled(draws):
    """Weights that repeat some draws and leave others out, and the same draws written out."""
    times = torch.arange(len(draws)) % 3
    return Draws(draws, STATS, log_weights=times.double().log()), draws.repeat_interleave(times, 0)


class TestExceedance:
    def test_counts(self):
        x = normal(200, 4, 5)
        limit = normal(5, seed=3)
        np.testing.assert_allclose(exceedance(Draws(x, STATS), limit), (x.numpy() > limit.numpy()).mean(0), atol=1e-12)
        some, written = doubled(x)
        torch.testing.assert_close(exceedance(some, 0.3), (written > 0.3).double().mean(0))
        x[7, 1, 2] = torch.nan
        assert exceedance(Draws(x, STATS), limit).isnan().nonzero().tolist() == [[1, 2]]

    def test_what_does_not_fit_is_refused(self):
        draws = Draws(normal(20, 4, 5), STATS)
        with pytest.raises(ValueError, match=r"threshold of shape \(3,\) does not broadcast"):
            exceedance(draws, torch.zeros(3))
        with pytest.raises(ValueError, match="NaN"):
            exceedance(draws, float("nan"))
        with pytest.raises(PointEstimateError, match="RED returns point estimates, and exceedance"):
            exceedance(Draws(normal(20, 4), STATS, is_posterior=False), 0.0)


class TestHighestDensity:
    def test_is_the_shortest_window(self):
        x = normal(99, 7).exp()
        found = highest_density(Draws(x, STATS), 0.9)
        ordered = np.sort(x.numpy(), 0)
        for j in range(7):
            widths = ordered[90:, j] - ordered[:-90, j]  # 90 gaps of 1 / 100
            i = widths.argmin()
            assert (found.lower[j], found.upper[j]) == (ordered[i, j], ordered[i + 90, j])

    def test_of_a_skewed_law(self):
        x = torch.empty(20_000, 2, dtype=torch.float64).exponential_(generator=torch.Generator().manual_seed(0))
        found = highest_density(Draws(x, STATS), 0.9)
        assert found.lower.abs().max() < 0.01
        torch.testing.assert_close(found.upper, torch.full((2,), math.log(10), dtype=torch.float64), atol=0.06, rtol=0)
        lower, upper = Draws(x, STATS).interval(0.9)
        assert (found.upper - found.lower < 0.9 * (upper - lower)).all()

    def test_weights_count(self):
        x = normal(3000, 3)
        some, written = doubled(x)
        one, other = (highest_density(d, 0.8) for d in (some, Draws(written, STATS)))
        assert (one.upper - one.lower - (other.upper - other.lower)).abs().max() < 0.05
        cut = Draws(torch.cat([x, x + 100]), STATS, log_weights=torch.cat([torch.zeros(3000), torch.full((3000,), -torch.inf)]))
        torch.testing.assert_close(
            highest_density(cut, 0.8).upper, highest_density(Draws(x, STATS), 0.8).upper, atol=2e-2, rtol=0
        )

    def test_coverage_is_as_stated(self):
        x = normal(100, 4000)
        new = normal(4000, seed=9)
        found = highest_density(Draws(x, STATS), 0.9)
        assert ((new > found.lower) & (new < found.upper)).double().mean() == pytest.approx(0.886, abs=0.012)

    def test_of_a_single_number(self):
        number, line = (Draws(x, STATS) for x in (normal(60), normal(60)[:, None]))
        assert highest_density(number).lower == highest_density(line).lower[0]
        assert entropy(number) == entropy(line)[0]
        assert principal_components(number, 1).std == principal_components(line, 1).std

    def test_too_few_draws(self):
        assert highest_density(Draws(normal(19, 2), STATS), 0.9).upper.shape == (2,)
        with pytest.raises(ValueError, match="at least 19"):
            highest_density(Draws(normal(18, 2), STATS), 0.9)
        with pytest.raises(ValueError, match="level is 1.5"):
            highest_density(Draws(normal(18, 2), STATS), 1.5)


class TestEntropy:
    @pytest.mark.parametrize(("n", "bias"), [(100, 0.06), (1000, 0.02)])
    def test_of_a_gaussian(self, n, bias):
        found = entropy(Draws(3 * normal(n, 2000), STATS))
        exact = math.log(3) + 0.5 * math.log(2 * math.pi * math.e)
        assert float(found.mean()) == pytest.approx(exact, abs=bias)
        assert float(found.std()) < 1 / math.sqrt(n)

    def test_of_a_uniform_law_is_almost_unbiased(self):
        u = torch.rand(400, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        assert abs(float(entropy(Draws(u, STATS)).mean())) < 0.005

    def test_weights_count(self):
        x = normal(2000, 50)
        log_weights = -0.5 * x[:, :1].square() * 3  # N(0, 1) becomes N(0, 1/4) in the first coordinate
        found = entropy(Draws(x, STATS, log_weights=log_weights[:, 0]))
        assert float(found[0]) == pytest.approx(math.log(0.5) + 0.5 * math.log(2 * math.pi * math.e), abs=0.08)
        assert float(found[1:].mean()) == pytest.approx(0.5 * math.log(2 * math.pi * math.e), abs=0.05)

    def test_too_few_draws(self):
        with pytest.raises(ValueError, match="10 or more"):
            entropy(Draws(normal(9, 2), STATS))

    def test_minus_infinity_takes_fewer_equal_draws_at_the_ends(self):
        """Of 100 draws m is 10."""
        x = normal(100, 1).sort(0).values
        for first, equal, infinite in ((0, 10, False), (0, 11, True), (89, 11, True), (40, 20, False), (40, 21, True)):
            tied = x.clone()
            tied[first : first + equal] = x[first]
            assert bool(entropy(Draws(tied, STATS))[0] == -math.inf) is infinite


class TestPrincipalComponents:
    def test_are_those_of_numpy(self):
        x = (normal(40, 12) @ normal(12, 12, seed=2)).reshape(40, 3, 4) + 100
        found = principal_components(Draws(x, STATS), 4)
        flat = x.reshape(40, -1).numpy()
        _, s, v = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
        np.testing.assert_allclose(found.std, s[:4] / np.sqrt(39), rtol=1e-6)
        np.testing.assert_allclose(found.share, (s**2 / (s**2).sum())[:4], rtol=1e-6)
        cosines = (found.components.reshape(4, -1).numpy() * v[:4]).sum(1)
        np.testing.assert_allclose(np.abs(cosines), 1, rtol=1e-6)
        np.testing.assert_allclose(found.scores, (flat - flat.mean(0)) @ found.components.reshape(4, -1).numpy().T, atol=1e-8)
        assert (found.components.flatten(1).gather(1, found.components.flatten(1).abs().argmax(1)[:, None]) > 0).all()

    def test_weights_count(self):
        draws = weighted(normal(60, 6) @ normal(6, 6, seed=2))
        found = principal_components(draws, 6)
        cov = np.cov(draws.samples.numpy().T, aweights=draws.weights.numpy())
        np.testing.assert_allclose(found.std.square(), np.sort(np.linalg.eigvalsh(cov))[::-1], rtol=1e-6)

    def test_so_many_directions_there_are_not(self):
        with pytest.raises(ValueError, match="wanted 1 to 4"):
            principal_components(Draws(normal(5, 9), STATS), 5)


class TestMask:
    """Points that do not exist, whatever the samples hold there, have no part."""

    mask = torch.arange(4)[None] < torch.tensor([2, 3, 2, 2])[:, None]
    x = normal(40, 4, 4) + 10
    draws = Draws(torch.where(mask, x, math.nan), STATS, mask=mask)

    def test_in_regions(self):
        found = summarise_regions(self.draws, {"all": torch.ones(4, 4)}, threshold=10.0)
        values = self.x[:, self.mask]
        wanted = (values.mean(1), values.amax(1), values.amin(1), (values > 10).sum(1))
        for summary, by_draw in zip(found, wanted, strict=True):
            np.testing.assert_allclose(summary.draws.samples, by_draw)
        with pytest.raises(ValueError, match="region 'land' is empty"):
            summarise_regions(self.draws, {"land": ~self.mask})

    def test_in_components(self):
        found, alone = principal_components(self.draws, 2), principal_components(Draws(self.x[:, self.mask], STATS), 2)
        torch.testing.assert_close(found.components[:, self.mask], alone.components)
        torch.testing.assert_close(found.share, alone.share)
        assert (found.components[:, ~self.mask] == 0).all()


class TestRegions:
    def test_each_draw_has_its_own(self):
        x = normal(50, 4, 5)
        left = torch.zeros(4, 5)
        left[:, :2] = 1
        area = torch.arange(1.0, 5.0)[:, None]
        found = summarise_regions(Draws(x, STATS, units="K"), {"left": left}, threshold=0.5, cell=area, cell_units="km2")
        by_name = {s.quantity: s for s in found}
        assert list(by_name) == ["mean", "maximum", "minimum", "volume"]
        inside = x[:, :, :2].numpy()
        for name, values in {
            "mean": inside.mean((1, 2)),
            "maximum": inside.max((1, 2)),
            "minimum": inside.min((1, 2)),
            "volume": ((inside > 0.5) * area.numpy()).sum((1, 2)),
        }.items():
            s = by_name[name]
            assert s.mean == pytest.approx(values.mean()) and s.std == pytest.approx(values.std(ddof=1))
            assert s.mc_error == pytest.approx(values.std(ddof=1) / 50**0.5)
            assert s.lower == pytest.approx(np.quantile(values, 0.05, method="weibull"))
            assert s.units == ("km2" if name == "volume" else "K")
        assert "left, maximum" in str(by_name["maximum"])

    def test_weights_count_and_few_draws_have_no_interval(self):
        x = normal(12, 3)
        some, written = doubled(x)
        one, two = (summarise_regions(d, {"all": torch.ones(3)})[0] for d in (some, Draws(written, STATS)))
        assert one.mean == pytest.approx(two.mean)
        assert math.isnan(one.lower)

    def test_what_does_not_fit_is_refused(self):
        draws = Draws(normal(20, 4, 5), STATS)
        with pytest.raises(ValueError, match="region 'a' has shape"):
            summarise_regions(draws, {"a": torch.ones(3)})
        with pytest.raises(ValueError, match="region 'a' is empty"):
            summarise_regions(draws, {"a": torch.zeros(5)})
        with pytest.raises(ValueError, match="summarise_regions: level is 1.0"):
            summarise_regions(draws, {"a": torch.ones(5)}, level=1.0)
        with pytest.raises(ValueError, match="no regions"):
            summarise_regions(draws, {})
        with pytest.raises(ValueError, match="complex"):
            summarise_regions(Draws(normal(20, 2, 4, 5), STATS, kind="complex"), {"a": torch.ones(5)})


class TestMoments:
    @pytest.mark.parametrize("weights", [False, True])
    def test_are_those_of_all_draws_at_once(self, weights):
        x = normal(100, 3, 4) + 1e6  # an offset that sums of squares would not survive
        logs = 5 * normal(100, seed=4) + 800 if weights else None
        whole = Draws(x, STATS, log_weights=logs)
        one, two = StreamingMoments((3, 4)), StreamingMoments((3, 4))
        for part, into in (((0, 7), one), ((7, 7), one), ((7, 40), one), ((40, 100), two)):
            into.update(x[slice(*part)], None if logs is None else logs[slice(*part)])
        before = two.mean
        one.merge(two)
        assert torch.equal(two.mean, before)
        torch.testing.assert_close(one.mean, whole.mean, rtol=1e-12, atol=0)
        torch.testing.assert_close(one.std, whole.std, rtol=1e-7, atol=0)
        assert one.count == 100 and one.n_effective == pytest.approx(whole.n_effective)

    def test_draws_without_weight_count_for_nothing(self):
        x, nothing = normal(10, 3), torch.full((10,), -torch.inf)
        moments = StreamingMoments((3,))
        moments.update(normal(10, 3, seed=1), nothing)
        moments.update(x, torch.full((10,), -900.0))
        moments.update(normal(10, 3, seed=2), nothing)
        torch.testing.assert_close(moments.mean, x.mean(0))
        torch.testing.assert_close(moments.std, x.std(0))

    def test_what_does_not_fit_is_refused(self):
        moments = StreamingMoments((3,))
        with pytest.raises(ValueError, match="one draw"):
            _ = moments.mean
        moments.update(normal(1, 3))
        with pytest.raises(ValueError, match="two draws"):
            _ = moments.std
        with pytest.raises(ValueError, match="got a batch of shape"):
            moments.update(normal(2, 4))
        with pytest.raises(ValueError, match="NaN"):
            moments.update(normal(2, 3), torch.tensor([0.0, float("nan")]))
        with pytest.raises(ValueError, match="cannot merge"):
            moments.merge(StreamingMoments((4,)))


class TestSketch:
    def test_is_exact_while_it_holds_all(self):
        x = normal(64, 3, 4)
        sketch = QuantileSketch((3, 4), size=64, dtype=torch.float64)
        sketch.update(torch.empty(0, 3, 4))
        for part in x.split(10):
            sketch.update(part)
        assert sketch.worst_error == 0
        for level in (0.5, 0.9, 0.95):
            for mine, theirs in zip(sketch.interval(level), Draws(x, STATS).interval(level), strict=True):
                torch.testing.assert_close(mine, theirs)
        with pytest.raises(ValueError, match="at least 99"):
            sketch.interval(0.98)

    @pytest.mark.parametrize("merged", [False, True])
    def test_error_is_as_stated(self, merged):
        n, size = 20_000, 64
        x = normal(n, 30)
        parts = [QuantileSketch((30,), size, seed=s, dtype=torch.float64) for s in range(4 if merged else 1)]
        for i, batch in enumerate(x.split(500)):
            parts[i % len(parts)].update(batch)
        sketch = parts[0]
        for other in parts[1:]:
            sketch.merge(other)
        assert sketch.count == n
        assert sum(2**h * len(p) for h, level in enumerate(sketch._levels) for p in level) == n
        off = []
        for level in (0.05, 0.25, 0.5, 0.75, 0.95):
            rank = (x <= sketch.quantile(level)).double().mean(0)
            off.append(rank - level)
        off = torch.stack(off)
        slack = 2 ** (len(sketch._levels) - 1) / n  # between two items of the highest level
        assert off.abs().max() <= sketch.worst_error + slack
        assert off.square().mean().sqrt() <= 1.5 * sketch.standard_error + slack
        assert 0 < sketch.standard_error < 2 / size
        assert abs(off.mean()) < 0.01

    def test_stated_error_counts_what_was_halved(self):
        sketch = QuantileSketch((1,), 8)
        for i in range(24):  # three times a level of single draws is halved, and once one of pairs
            sketch.update(torch.full((1, 1), float(i)))
        assert [sum(len(p) for p in level) for level in sketch._levels] == [4, 0, 5]
        assert (sketch.worst_error, sketch.standard_error) == (5 / 24, math.sqrt(7) / 24)

    def test_memory_is_bounded(self):
        x = normal(500, 16, dtype=torch.float32)
        sketch = QuantileSketch((16,), 32)
        held = []
        for _ in range(40):
            sketch.update(x)
            held.append(sketch.memory // (4 * 16))
        assert max(held) <= 3 * 32 + 2 * len(sketch._levels)
        assert max(held[20:]) <= max(held[:20]) + 16

    def test_what_does_not_fit_is_refused(self):
        with pytest.raises(ValueError, match="size is 4"):
            QuantileSketch((3,), 4)
        sketch = QuantileSketch((3,))
        with pytest.raises(ValueError, match="got a batch of shape"):
            sketch.update(normal(2, 4))
        with pytest.raises(ValueError, match="NaN"):
            sketch.update(torch.full((2, 3), float("nan")))
        with pytest.raises(ValueError, match="cannot merge"):
            sketch.merge(QuantileSketch((3,), 64))
        with pytest.raises(ValueError, match="level between 0 and 1"):
            sketch.quantile(1.5)

    def test_merges_with_itself(self):
        sketch = QuantileSketch((2,), 8)
        sketch.update(torch.arange(40.0).reshape(20, 2))
        sketch.merge(sketch)
        assert sketch.count == 40
        assert (sketch.quantile(0.5) - torch.tensor([19.0, 20.0])).abs().max() <= 40 * sketch.worst_error + 2
