"""Several times of one trajectory: snapshots, series of observations and accumulations.

A trajectory is (B, C, T, H, W), or (B, C, T, ...) in general, with equal steps in time. Where a prior keeps time among the
channels, (B, C * T, H, W) with channel c at time t in place c * T + t, put :class:`operators.Reshape` in front.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from deepinv.physics import Physics

from operators.algebra import Compose, LinearStack, Stack
from operators.selection import Snapshot, trajectory_steps
from operators.separable import Separable


class Accumulation(Separable):
    r"""Amounts gathered over windows of time, as a rain gauge does: :math:`y_w = \sum_t n_{wt}\, \Delta t\, x_t`.

    n is the share of step t that the window covers, so windows may begin and end within a step, may overlap and may leave
    gaps. x is (B, C, T, ...) rates, constant over each step; y is (B, C, windows, ...), in the units of x times those of
    ``step``.

    Args:
        shape: (C, T, ...), event shape of the trajectory.
        windows: Pairs of begin and end in steps, 0 the begin of the first step and T the end of the last; or one number of
            steps, for windows that follow one another and fill T.
        step: Length of a step :math:`\Delta t`.
        mean: Whether to divide by the length of the window, for averages in the units of x.

    Raises:
        ValueError: A window is empty or reaches beyond the trajectory, or a number of steps does not divide T; ``step`` is not
            positive; x or y has the wrong shape or dtype.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        windows: int | Sequence[tuple[float, float]],
        *,
        step: float = 1.0,
        mean: bool = False,
    ) -> None:
        steps = trajectory_steps(shape, "Accumulation")
        if not 0 < step < float("inf"):
            raise ValueError(f"Accumulation: step must be positive and finite, got {step}")
        if isinstance(windows, int):
            if windows < 1 or steps % windows:
                raise ValueError(f"Accumulation: windows of {windows} steps do not fill {steps} steps")
            windows = [(begin, begin + windows) for begin in range(0, steps, windows)]
        for begin, end in windows:
            if not 0 <= begin < end <= steps:
                raise ValueError(f"Accumulation: a window must be within 0 to {steps} steps, got {begin} to {end}")
        if not windows:
            raise ValueError("Accumulation: windows must hold at least one")
        begins, ends = np.array(windows, dtype=float).T[:, :, None]
        first = np.arange(steps)
        shares = np.clip(np.minimum(ends, first + 1) - np.maximum(begins, first), 0, None)
        weights = shares / (ends - begins) if mean else shares * step
        super().__init__(tuple(shape), {2: torch.from_numpy(weights)})
        self.windows = tuple((float(begin), float(end)) for begin, end in windows)

    def extra_repr(self) -> str:
        return f"shape={self.img_size}, windows={len(self.windows)}"


class TimeSeries(Stack):
    """Observations at several times of one trajectory, (B, C, T, ...) to one flat vector (B, m).

    The instrument of each time sees the trajectory at that time, linear between steps; data come in the order of the times.
    It is a :class:`operators.Stack` with the times as names: ``split`` takes data apart and ``sigma`` gives each time its
    own noise. Linear where all instruments are.

    Args:
        operators: Instruments by time in steps, from 0 to T - 1, whole or not; or one instrument for all ``times``. Each
            takes a field (B, C, ...) without time.
        shape: (C, T, ...), event shape of the trajectory.
        times: When the one instrument observes; default every step.

    Raises:
        ValueError: A time is not within the trajectory, or an instrument does not take such a field.
    """

    def __init__(
        self,
        operators: Physics | Mapping[float, Physics],
        shape: tuple[int, ...],
        times: Sequence[float] | None = None,
    ) -> None:
        if isinstance(operators, Physics):
            times = range(trajectory_steps(shape, "TimeSeries")) if times is None else times
            operators = dict.fromkeys(times, operators)
        elif times is not None:
            raise ValueError("TimeSeries: times are for one instrument; a mapping has its own")
        super().__init__({t: Compose(operators[t], Snapshot(shape, t)) for t in sorted(operators)}, shape)


class LinearTimeSeries(TimeSeries, LinearStack):
    """A :class:`TimeSeries` of linear instruments; made by calling that."""


TimeSeries._linear = LinearTimeSeries
