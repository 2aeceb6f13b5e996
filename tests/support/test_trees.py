"""Nested dicts of arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, strategies as st

from dense_xp.support.trees import copies, flatten, mapped, merged, unflatten

KEYS = st.text("abc", min_size=1, max_size=2)
TREES = st.recursive(
    st.dictionaries(KEYS, st.integers(), min_size=1),
    lambda inner: st.dictionaries(KEYS, st.integers() | inner, min_size=1),
    max_leaves=8,
)


@given(TREES)
def test_flat_and_back(tree: Any) -> None:
    assert unflatten(flatten(tree)) == tree


@given(TREES)
def test_a_function_of_each_array(tree: Any) -> None:
    doubled = mapped(lambda x: 2 * x, tree)
    assert flatten(doubled) == {name: 2 * value for name, value in flatten(tree).items()}
    assert mapped(lambda a, b, c: a + b - c, tree, doubled, tree) == doubled
    assert merged(tree, doubled) == doubled


def test_what_is_beside_the_places_is_left_out() -> None:
    assert mapped(lambda new, old: (new, old), {"a": {}, "b": 1}, {"a": {"W": 3}, "b": 2, "c": 4}) == {
        "a": {},
        "b": (1, 2),
    }
    assert merged({"a": {"W": 1}, "b": {}}, {"a": {"W": 2}}) == {"a": {"W": 2}, "b": {}}


def test_copies_are_of_their_own() -> None:
    tree = {"dense": {"W": np.ones(2)}}
    copy = copies(tree)
    copy["dense"]["W"][0] = 5.0
    assert tree["dense"]["W"][0] == 1.0
