"""Time and memory of uncertainty maps: 1000 draws of a 256 x 256 complex image, at once and as a stream.

python -m benchmarks.maps            the figures of the issue
python -m benchmarks.maps --draws 200 --size 64
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from posterior.draws import Draws, Stats
from posterior.uncertainty import QuantileSketch, StreamingMoments, exceedance, highest_density

BATCH = 20


def batches(draws: int, size: int):
    """Magnitudes of complex noise, as a sampler hands them over: (B, 2, size, size) at a time."""
    g = torch.Generator().manual_seed(0)
    for start in range(0, draws, BATCH):
        yield torch.randn(min(BATCH, draws - start), 2, size, size, generator=g)


def timed(name: str, fn: Callable[[], object]) -> float:
    start, computed = time.perf_counter(), time.process_time()
    fn()
    seconds, computed = time.perf_counter() - start, time.process_time() - computed
    print(f"  {name:<44} {seconds:6.2f} s, {computed:6.2f} s of all cores", flush=True)
    return computed


def at_once(draws: int, size: int) -> float:
    """Processor seconds of mean, standard deviation and the 90 % interval of the magnitude, all draws in memory."""
    samples = torch.cat(list(batches(draws, size)))
    stats = Stats(0, 0, 0.0, None, 0, "ok", "", "", "", {})
    complex_draws = Draws(samples, stats, kind="complex")
    kept: list[Draws] = []
    print(f"{draws} draws of {size} x {size} complex, {samples.nbytes / 2**20:.0f} MiB in memory")
    seconds = timed("magnitude", lambda: kept.append(complex_draws.magnitude()))
    seconds += timed("mean and standard deviation", lambda: (kept[0].mean, kept[0].std))
    seconds += timed("90 % interval", lambda: kept[0].interval(0.9))
    seconds += timed("exceedance", lambda: exceedance(kept[0], 1.0))
    print(f"  together {seconds:.1f} s of all cores")
    timed("highest-density interval besides", lambda: highest_density(kept[0], 0.9))
    return seconds


def streamed(draws: int, size: int) -> tuple[float, int]:
    """Processor seconds and bytes of the same maps without keeping the draws."""
    moments, sketch, start = StreamingMoments((size, size)), QuantileSketch((size, size)), time.process_time()
    made = 0.0
    before = time.process_time()
    for batch in batches(draws, size):
        made += time.process_time() - before
        magnitude = torch.linalg.vector_norm(batch, dim=1)
        moments.update(magnitude)
        sketch.update(magnitude)
        before = time.process_time()
    _, _, _ = moments.mean, moments.std, sketch.interval(0.9)
    seconds = time.process_time() - start - made
    held, error = sketch.memory + 2 * 8 * size * size, sketch.standard_error
    cost = f"{seconds:6.2f} s of all cores, {held / 2**20:.0f} MiB held"
    print(f"  stream of {draws:>6} draws: {cost}, ranks within {error:.2%}", flush=True)
    return seconds, held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--size", type=int, default=256)
    a = parser.parse_args()
    at_once(a.draws, a.size)
    for n in (a.draws, 2 * a.draws, 4 * a.draws):
        streamed(n, a.size)


if __name__ == "__main__":
    main()
