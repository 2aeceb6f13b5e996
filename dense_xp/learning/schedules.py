"""Learning-rate schedules: from the number of a step to its learning rate.

A schedule is a function on the host. The rate enters the training step as an input, so a compiled step
serves every rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from dense_xp.support.checks import Checked, Ranges, real


class Schedule(Checked):
    """Base class: ``schedule(step)`` is the learning rate of that step, counted from 0."""

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step."""
        raise NotImplementedError(f"{type(self).__name__} has no __call__(step)")


@dataclass(frozen=True)
class ConstantSchedule(Schedule):
    """The same learning rate at every step.

    Parameters
    ----------
    learning_rate : float
        That rate.

    Examples
    --------
    >>> ConstantSchedule(0.1)(1000)
    0.1
    """

    learning_rate: float
    ranges: ClassVar[Ranges] = {"learning_rate": "[0, inf)"}

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step."""
        return self.learning_rate


@dataclass(frozen=True)
class StepSchedule(Schedule):
    r"""Multiply the learning rate by a factor every so many steps: :math:`η_0 f^{⌊t/n⌋}`.

    Parameters
    ----------
    learning_rate : float
        The first rate, :math:`η_0`.
    every : int
        How many steps, :math:`n`, pass from one rate to the next.
    factor : float, default 0.1
        What the rate is multiplied by.

    Examples
    --------
    >>> [StepSchedule(1.0, every=2, factor=0.5)(step) for step in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    learning_rate: float
    every: int
    factor: float = 0.1
    ranges: ClassVar[Ranges] = {"learning_rate": "[0, inf)", "factor": "[0, inf)", "every": 1}

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step."""
        return self.learning_rate * self.factor ** (step // self.every)


@dataclass(frozen=True)
class ExponentialSchedule(Schedule):
    r"""Let the learning rate fall smoothly by a factor in so many steps: :math:`η_0 f^{t/n}`.

    Parameters
    ----------
    learning_rate : float
        The first rate, :math:`η_0`.
    steps : int
        In how many steps, :math:`n`, it falls by the factor.
    factor : float, default 0.1
        What it is then multiplied by.

    Examples
    --------
    >>> ExponentialSchedule(1.0, steps=2, factor=0.25)(1)
    0.5
    """

    learning_rate: float
    steps: int
    factor: float = 0.1
    ranges: ClassVar[Ranges] = {"learning_rate": "[0, inf)", "factor": "[0, inf)", "steps": 1}

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step."""
        return float(self.learning_rate * self.factor ** (step / self.steps))


@dataclass(frozen=True)
class CosineSchedule(Schedule):
    r"""Let the learning rate fall along half a cosine, then stay: from :math:`η_0` to :math:`η_1`.

    .. math:: η_1 + (η_0 - η_1) (1 + \cos(π t / n)) / 2

    Parameters
    ----------
    learning_rate : float
        The first rate, :math:`η_0`.
    steps : int
        In how many steps, :math:`n`, it arrives at the last.
    end : float, default 0.0
        The last rate, :math:`η_1`.

    References
    ----------
    .. [1] I. Loshchilov and F. Hutter, "SGDR: Stochastic gradient descent with warm restarts",
       ICLR 2017, https://arxiv.org/abs/1608.03983, eq. 5 (one period).

    Examples
    --------
    >>> [round(CosineSchedule(1.0, steps=4)(step), 3) for step in (0, 2, 4, 9)]
    [1.0, 0.5, 0.0, 0.0]
    """

    learning_rate: float
    steps: int
    end: float = 0.0
    ranges: ClassVar[Ranges] = {"learning_rate": "[0, inf)", "end": "[0, inf)", "steps": 1}

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step."""
        share = min(step / self.steps, 1.0)
        return self.end + (self.learning_rate - self.end) * (1.0 + math.cos(math.pi * share)) / 2.0


@dataclass(frozen=True)
class WarmUp(Schedule):
    """Rise linearly to a learning rate or to the start of a schedule, then follow that.

    Step `steps` is the first at the full rate, and the first of the schedule that follows.

    Parameters
    ----------
    after : float or Schedule
        What comes after the rise.
    steps : int
        How many steps the rise takes.
    start : float, default 0.0
        Where it starts.

    References
    ----------
    .. [1] P. Goyal et al., "Accurate, large minibatch SGD", 2017, https://arxiv.org/abs/1706.02677,
       sec. 2.2 (gradual warm-up).

    Examples
    --------
    >>> [WarmUp(1.0, steps=4)(step) for step in range(6)]
    [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """

    after: float | Schedule
    steps: int
    start: float = 0.0

    ranges: ClassVar[Ranges] = {"start": "[0, inf)", "steps": 1}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.after):
            object.__setattr__(self, "after", real("after", self.after, "[0, inf)"))

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step."""
        if step >= self.steps:
            return rate_at(self.after, step - self.steps)
        return self.start + (rate_at(self.after, 0) - self.start) * step / self.steps


@dataclass(frozen=True)
class ScaledSchedule(Schedule):
    """A schedule times a factor, such as after a callback has reduced the learning rate.

    Parameters
    ----------
    schedule : Schedule
        What is scaled.
    factor : float
        What its rates are multiplied by.

    Examples
    --------
    >>> ScaledSchedule(ConstantSchedule(1.0), 0.5)(7)
    0.5
    """

    schedule: Schedule
    factor: float

    ranges: ClassVar[Ranges] = {"factor": "[0, inf)"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.schedule, Schedule):
            raise TypeError(f"schedule must be a Schedule, and is {self.schedule!r}")

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step."""
        return self.factor * rate_at(self.schedule, step)


def scaled(learning_rate: float | Schedule, factor: float) -> float | Schedule:
    """Return a learning rate times a factor, whether it is a number or a schedule.

    Examples
    --------
    >>> scaled(0.5, 0.5), scaled(scaled(ConstantSchedule(1.0), 0.5), 0.5)
    (0.25, ScaledSchedule(schedule=ConstantSchedule(learning_rate=1.0), factor=0.25))
    """
    if isinstance(learning_rate, ScaledSchedule):
        return ScaledSchedule(learning_rate.schedule, learning_rate.factor * factor)
    return ScaledSchedule(learning_rate, factor) if isinstance(learning_rate, Schedule) else learning_rate * factor


def rate_at(learning_rate: float | Schedule, step: int) -> float:
    """Return the learning rate of a step, whether it is a number or a schedule."""
    return float(learning_rate(step) if callable(learning_rate) else learning_rate)


SCHEDULES = (ConstantSchedule, StepSchedule, ExponentialSchedule, CosineSchedule, WarmUp, ScaledSchedule)
