"""The states of random generators: what comes back is the same stream, and nothing else reaches NumPy."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from dense_xp.support.seeds import random_state, restored

NAMES = ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"]


def generator(name: str, drawn: int = 7) -> np.random.Generator:
    rng = np.random.Generator(getattr(np.random, name)(5))
    rng.normal(size=drawn)
    rng.integers(0, 9, size=3, dtype=np.uint32)
    return rng


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("drawn", [0, 1, 7, 623, 2000])
def test_the_stream_goes_on(name: str, drawn: int) -> None:
    rng = generator(name, drawn)
    again = restored(json.loads(json.dumps(random_state(rng))))
    assert again is not None
    np.testing.assert_array_equal(again.normal(size=2000), rng.normal(size=2000))


def places(state: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in a state."""
    if isinstance(state, dict):
        return [place for key, value in state.items() for place in places(value, (*path, key))]
    if isinstance(state, list):
        return [path, *((*path, i) for i in range(len(state)))]
    return [path]


WRONG = st.one_of(
    st.none(), st.booleans(), st.floats(), st.text(max_size=3), st.lists(st.integers(), max_size=5), st.just({}),
    st.integers(max_value=-1), st.integers(min_value=2**128), st.just(10**8), st.just(2**64), st.just(10**4299),
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_damaged_state_is_refused_or_in_range(name: str, data: Any) -> None:
    """Every value of a state in turn becomes something else; what is accepted draws as any generator does."""
    state = copy.deepcopy(random_state(generator(name)))
    *path, last = data.draw(st.sampled_from(places(state)))
    inner = state
    for key in path:
        inner = inner[key]
    inner[last] = data.draw(WRONG)
    try:
        rng = restored(state)
    except ValueError as error:
        said = str(error)
    else:
        said = ""
    assert len(said) < 300
    if said:
        return
    assert rng is not None
    assert rng.bit_generator.state["bit_generator"] == state["bit_generator"]
    assert np.isfinite(rng.normal(size=2000)).all()


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("MT19937", ("state", "pos"), 100_000_000),
        ("MT19937", ("state", "pos"), 625),
        ("MT19937", ("state", "key"), [0] * 623),
        ("Philox", ("buffer_pos",), 5),
        ("Philox", ("buffer_pos",), -1),
        ("PCG64", ("has_uint32",), 2),
        ("PCG64", ("state", "state"), 2**128),
        ("SFC64", ("state", "state"), [1.5, 2, 3, 4]),
    ],
)
def test_what_no_generator_can_be_in_is_refused(name: str, path: tuple[str, ...], value: Any) -> None:
    state = random_state(generator(name))
    inner = state
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(ValueError, match=path[-1]):
        restored(state)
