"""Numbers as arguments: NumPy's serve as Python's do, and what is no number is refused by whoever is given it."""

from __future__ import annotations

import inspect
import math
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

import dense_xp
from dense_xp import ConstantSchedule, Dense
from dense_xp.support.checks import integer, real

BRACKETS = {"[": operator.le, "(": operator.lt, "]": operator.le, ")": operator.lt}
NUMBERS = st.integers() | st.floats() | st.fractions() | st.booleans() | st.text() | st.none()


@given(
    value=NUMBERS | st.floats(width=32).map(np.float32),
    low=st.sampled_from(["-inf", "-1", "0", "0.5"]),
    high=st.sampled_from(["1", "2.5", "inf"]),
    opening=st.sampled_from("[("),
    closing=st.sampled_from(")]"),
)
def test_a_real_number_lies_in_its_interval(value: Any, low: str, high: str, opening: str, closing: str) -> None:
    interval = f"{opening}{low}, {high}{closing}"
    number = isinstance(value, int | float | np.floating | Fraction) and not isinstance(value, bool)
    inside = number and BRACKETS[opening](float(low), value) and BRACKETS[closing](value, float(high))
    if inside and (not isinstance(value, int) or abs(value) < 10**300):
        assert type(real("share", value, interval)) is float
        assert real("share", value, interval) == pytest.approx(float(value), rel=1e-15)
    else:
        with pytest.raises(ValueError, match=r"^share must be (a number|a positive number).*, and is "):
            real("share", value, interval)


@given(NUMBERS | st.integers(-9, 9).map(np.int8) | st.integers(0, 9).map(np.uint64), st.integers(-2, 3))
def test_an_integer_has_a_least_value(value: Any, low: int) -> None:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if whole and value >= low:
        assert integer("count", value, low) == value
        assert type(integer("count", value, low)) is int
    else:
        with pytest.raises(ValueError, match=r"count must be (an integer|a positive integer).*, and is "):
            integer("count", value, low)


@pytest.mark.parametrize(
    ("interval", "says"),
    [
        ("[0, inf)", "a number that is not negative"),
        ("(0, inf)", "a positive number"),
        ("(-inf, inf)", "a number that is finite"),
        ("[0, 1)", "a number, at least 0 and below 1"),
        ("(0, 1]", "a number, above 0 and at most 1"),
        ("[2.5, inf)", "a number, at least 2.5"),
    ],
)
def test_the_error_names_the_interval(interval: str, says: str) -> None:
    for value in (math.nan, math.inf, -math.inf, 10**400, "1", None, [1.0], np.ones(1), np.asarray(1.0), 1j, True):
        with pytest.raises(ValueError, match=f"^{re.escape(f'x must be {says}, and is {value!r}')}$"):
            real("x", value, interval)


# ------------------------------------------------------------------ whoever takes numbers

REQUIRED: dict[str, dict[str, Any]] = {
    "Constant": {"value": 0.5},
    "Dense": {"n_units": 3},
    "Dropout": {"rate": 0.5},
    "LoRA": {"dense": Dense(3, (2,)), "rank": 1},
    "QuantizedDense": {"n_units": 3},
    "ConstantSchedule": {"learning_rate": 0.5},
    "StepSchedule": {"learning_rate": 0.5, "every": 2},
    "ExponentialSchedule": {"learning_rate": 0.5, "steps": 2},
    "CosineSchedule": {"learning_rate": 0.5, "steps": 2},
    "WarmUp": {"after": 0.5, "steps": 2},
    "ScaledSchedule": {"schedule": ConstantSchedule(0.5), "factor": 0.5},
    "Checkpoint": {"path": "model"},
    "EachMember": {"initializer": "zeros", "n_members": 2},
    "RobustScale": {"center": [0.0], "scale": [1.0]},
}
"""What a constructor needs."""

OTHERWISE: dict[str, Any] = {"clip_norm": 0.5, "clip_value": 0.5, "alpha": 0.5}
"""A number for an argument that is None by default."""

NOT_NUMBERS = (math.nan, "x", "3", True, [1.0], np.ones(2), object())


def constructors() -> dict[str, Callable[..., Any]]:
    """Return every public class with a number among its arguments, but not of the package itself, or of a file."""
    classes = {name: getattr(dense_xp, name) for name in dense_xp.__all__ if isinstance(getattr(dense_xp, name), type)}
    made = {"History", "Run", "Backend", "ParquetRows"}
    return {
        name: cls for name, cls in classes.items() if name not in made and not issubclass(cls, Exception) and cases(cls)
    }


def cases(cls: Any) -> list[tuple[str, Any]]:
    """Return the arguments that are numbers, each with one that serves."""
    required = REQUIRED.get(cls.__name__, {})
    found = []
    for name, parameter in inspect.signature(cls).parameters.items():
        value = required.get(name, parameter.default)
        if value is None and name in OTHERWISE:
            value = OTHERWISE[name]
        if isinstance(value, int | float) and not isinstance(value, bool):
            found.append((name, value))
    return found


CASES = [(cls, name, value) for cls in constructors().values() for name, value in cases(cls)]
IDS = [f"{cls.__name__}-{name}" for cls, name, _ in CASES]


def test_all_of_them_are_found() -> None:
    assert len(CASES) > 70
    assert {"SGD-learning_rate", "Dropout-rate", "Dense-n_units", "TopK-k", "MinMaxNorm-high"} <= set(IDS)


@pytest.mark.parametrize(("cls", "name", "value"), CASES, ids=IDS)
def test_numbers_of_numpy_serve(cls: Any, name: str, value: Any) -> None:
    for kind in (np.int64, np.int8, np.uint32) if isinstance(value, int) else (np.float64, np.float32, np.float16):
        made = cls(**{**REQUIRED.get(cls.__name__, {}), name: kind(value)})
        assert getattr(made, name) == kind(value)
        assert type(getattr(made, name)) is type(value)


@pytest.mark.parametrize(("cls", "name", "value"), CASES, ids=IDS)
def test_what_is_no_number_is_refused_where_it_is_given(cls: Any, name: str, value: Any) -> None:
    wrong = (*NOT_NUMBERS, 2.5, 1e300) if isinstance(value, int) else NOT_NUMBERS
    for value in wrong:
        with pytest.raises(ValueError, match=f"^{name} must be "):
            cls(**{**REQUIRED.get(cls.__name__, {}), name: value})


@pytest.mark.parametrize("shape", [True, (True,), (3.0,), ("3",), (), (3, 4), 0, (-1,), "3", math.nan, np.ones(1)])
def test_what_is_no_input_shape(shape: Any) -> None:
    with pytest.raises(ValueError, match=r"^input_shape must be \(n_features,\) with a positive integer, and is"):
        Dense(3, shape)


def test_a_shape_of_numpys_integers() -> None:
    assert Dense(3, (np.int64(4),)).input_shape == (4,)  # type: ignore[arg-type]
    assert type(Dense(np.int64(3), np.int8(4)).get_config()["input_shape"][0]) is int
