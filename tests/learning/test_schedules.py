"""Learning rates, step by step."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dense_xp import (
    ConstantSchedule,
    CosineSchedule,
    ExponentialSchedule,
    ScaledSchedule,
    Schedule,
    StepSchedule,
    WarmUp,
)
from dense_xp.learning.schedules import rate_at, scaled

STEPS = range(25)


@pytest.mark.parametrize(
    ("schedule", "formula"),
    [
        (ConstantSchedule(0.3), lambda t: 0.3),
        (StepSchedule(0.4, every=5, factor=0.5), lambda t: 0.4 * 0.5 ** math.floor(t / 5)),
        (ExponentialSchedule(0.4, steps=5, factor=0.5), lambda t: 0.4 * 0.5 ** (t / 5)),
        (
            CosineSchedule(0.4, steps=20, end=0.1),
            lambda t: 0.25 + 0.15 * math.cos(math.pi * t / 20) if t < 20 else 0.1,
        ),
        (WarmUp(0.4, steps=8, start=0.2), lambda t: 0.2 + 0.2 * t / 8 if t < 8 else 0.4),
        (
            WarmUp(StepSchedule(0.4, every=5), steps=8),
            lambda t: 0.4 * t / 8 if t < 8 else 0.4 * 0.1 ** math.floor((t - 8) / 5),
        ),
    ],
)
def test_the_formula(schedule: Schedule, formula: Any) -> None:
    for step in STEPS:
        assert schedule(step) == pytest.approx(formula(step), rel=1e-14)
        assert type(schedule(step)) is float


def test_defaults() -> None:
    assert StepSchedule(1.0, every=3)(3) == pytest.approx(0.1)
    assert ExponentialSchedule(1.0, steps=3)(3) == pytest.approx(0.1)
    assert CosineSchedule(1.0, steps=3)(3) == 0
    assert WarmUp(1.0, steps=3)(0) == 0


def test_scaled() -> None:
    cosine = CosineSchedule(1.0, 7, end=0.1)
    half = scaled(cosine, 0.5)
    assert [rate_at(half, step) for step in STEPS] == [0.5 * cosine(step) for step in STEPS]
    assert scaled(half, 0.5) == ScaledSchedule(cosine, 0.25)
    assert scaled(0.1, 0.5) == 0.05
    with pytest.raises(TypeError, match="schedule must be a Schedule"):
        ScaledSchedule(0.1, 0.5)  # type: ignore[arg-type]


def test_a_number_is_a_schedule_too() -> None:
    assert rate_at(2, 7) == 2.0
    assert rate_at(CosineSchedule(1.0, 2), 1) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ConstantSchedule(-0.1), "learning_rate must be a number that is not negative"),
        (lambda: ConstantSchedule(math.nan), "learning_rate"),
        (lambda: ConstantSchedule("fast"), "learning_rate"),
        (lambda: StepSchedule(0.1, every=0), "every must be a positive integer"),
        (lambda: StepSchedule(0.1, every=2, factor=-1), "factor"),
        (lambda: StepSchedule(-0.1, every=2), "learning_rate"),
        (lambda: ExponentialSchedule(0.1, steps=2.5), "steps must be a positive integer"),
        (lambda: ExponentialSchedule(-0.1, steps=2), "learning_rate"),
        (lambda: ExponentialSchedule(0.1, steps=2, factor=math.inf), "factor"),
        (lambda: CosineSchedule(0.1, steps=True), "steps"),
        (lambda: CosineSchedule(-0.1, steps=2), "learning_rate"),
        (lambda: CosineSchedule(0.1, steps=2, end=-1), "end"),
        (lambda: WarmUp(-0.1, steps=2), "after"),
        (lambda: WarmUp(0.1, steps=0), "steps"),
        (lambda: WarmUp(0.1, steps=1, start=-1), "start"),
    ],
)
def test_what_is_no_schedule(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_the_base_class_says_what_is_missing() -> None:
    with pytest.raises(NotImplementedError, match="has no __call__"):
        Schedule()(0)
