"""What is read off a prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dense_xp import accuracy
from dense_xp.backend import Backend, to_numpy
from dense_xp.metrics import get_metric
from tests.support import assert_same_kind

LOGITS = np.asarray([[0.1, 2.0, -1.0], [3.0, 1.0, 0.0], [0.0, 0.5, 1.0], [9.0, -9.0, 0.0]])


@pytest.mark.parametrize(
    "target",
    [np.asarray([1, 0, 0, 0]), np.asarray([1, 0, 0, 0], "uint8"), np.eye(3)[[1, 0, 0, 0]]],
)
def test_the_share_of_right_classes(backend: Backend, target: Any) -> None:
    value = accuracy(backend.asarray(LOGITS, "float32"), backend.asarray(target))
    assert_same_kind(backend.asarray(value), backend, "float32", ())
    assert float(to_numpy(value)) == 0.75


def test_extra_axes_are_samples(backend: Backend) -> None:
    value = accuracy(backend.asarray(LOGITS.reshape(2, 2, 3)), backend.asarray(np.asarray([[1, 0], [0, 0]])))
    assert float(to_numpy(value)) == 0.75


def test_a_single_output_is_a_yes_where_it_is_positive(backend: Backend) -> None:
    value = accuracy(backend.asarray(np.asarray([[0.5], [-0.5], [2.0]])), backend.asarray(np.asarray([[1], [1], [1]])))
    assert float(to_numpy(value)) == pytest.approx(2 / 3)


def test_booleans_are_targets_too(backend: Backend) -> None:
    yes = accuracy(backend.asarray(np.asarray([[0.5], [-0.5]])), backend.asarray(np.asarray([[True], [True]])))
    assert float(to_numpy(yes)) == 0.5
    rows = np.eye(3)[[1, 0, 0, 0]].astype(bool)
    assert float(to_numpy(accuracy(backend.asarray(LOGITS), backend.asarray(rows)))) == 0.75


def test_metrics_by_name_and_by_function() -> None:
    assert get_metric("accuracy") == ("accuracy", accuracy)
    assert get_metric(accuracy)[0] == "accuracy"
    with pytest.raises(ValueError, match=r"unknown metric 'f1'. Known: accuracy, or a function"):
        get_metric("f1")
