"""Nothing in the mathematics waits for the device: no number of it is needed in Python."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dense_xp import (
    AUC,
    F1,
    L1,
    L1L2,
    L2,
    R2,
    Dense,
    MaxNorm,
    MinMaxNorm,
    NonNegative,
    Precision,
    Recall,
    Sequential,
    SoftOrthogonality,
    TopK,
    UnitNorm,
)
from dense_xp.evidence.parity import Case, cases
from dense_xp.learning import loss_scaling
from dense_xp.learning.losses import SoftmaxCrossEntropy
from dense_xp.learning.metrics import accuracy
from dense_xp.learning.optimizers import Adam, Lion
from dense_xp.support.trees import flatten, unflatten
from dense_xp.training.step import LOSS_SCALE, train_step
from tests.stand_ins import compat_on_host
from tests.stand_ins.compat_on_host import Counted

RNG = np.random.default_rng(0)
CASES = {case.name: case for case in cases("float32", shapes=((4, 5),))}


@pytest.fixture(autouse=True)
def xp() -> Iterator[Any]:
    with compat_on_host.installed() as namespace:
        Counted.waits.clear()
        yield namespace


def put(value: Any, dtype: str = "float32") -> Any:
    host = np.asarray(value)
    return Counted(host.astype(dtype) if host.dtype.kind == "f" else host)


def test_the_stand_in_counts(xp: Any) -> None:
    """compat's clip writes through masks, as it does over CuPy; its sign does so where it must keep a NaN."""
    x = put(RNG.normal(size=(3, 4)))
    assert xp.clip(x, -0.5, 0.5).shape == (3, 4)
    assert Counted.waits
    Counted.waits.clear()
    xp.sign(x)
    assert Counted.waits == ["a boolean mask"]
    Counted.waits.clear()
    bool(x[0, 0] > 0)
    assert Counted.waits == ["bool"]


@pytest.mark.parametrize("name", CASES)
def test_layers_losses_and_optimizers(name: str) -> None:
    case: Case = CASES[name]
    case.function({key: put(value) for key, value in case.inputs.items()})
    assert not Counted.waits


@pytest.mark.parametrize("rule", [L1(0.1), L2(0.1), L1L2(0.1, 0.1), SoftOrthogonality(0.1)], ids=repr)
def test_regularizers(rule: Any) -> None:
    W = put(RNG.normal(size=(4, 3)))
    rule.penalty(W)
    rule.gradient(W)
    assert not Counted.waits


@pytest.mark.parametrize("rule", [MaxNorm(1.0), MinMaxNorm(0.5, 1.0), NonNegative(), UnitNorm()], ids=repr)
def test_constraints(rule: Any) -> None:
    rule(put(RNG.normal(size=(4, 3))))
    assert not Counted.waits


@pytest.mark.parametrize("metric", [accuracy, AUC(), F1(), Precision(), Recall(), TopK(2), R2()], ids=repr)
def test_metrics(metric: Any) -> None:
    prediction, labels, weight = put(RNG.normal(size=(6, 3))), put(np.arange(6) % 3), put(np.ones(6))
    target = put(RNG.normal(size=(6, 3))) if isinstance(metric, R2) else labels
    for own in (None, weight):
        (metric.statistics if hasattr(metric, "statistics") else metric)(prediction, target, own)
    assert not Counted.waits


@pytest.mark.parametrize("optimizer", [Adam(0.1, clip_norm=1.0, clip_value=0.5), Lion(0.1, weight_decay=0.1)], ids=repr)
def test_a_whole_step_in_sixteen_bits(optimizer: Any) -> None:
    model = Sequential(
        [Dense(8, activation="gelu").regularized(W=L1(0.1)).constrained(W=MaxNorm(1.0)), Dense(3)], rng=0
    )
    model.build_for(np.ones((2, 5)), optimizer)
    step = train_step(model, SoftmaxCrossEntropy(), (accuracy,))
    params = unflatten({key: put(value, "float16") for key, value in flatten(model.params).items()})
    state: dict[str, Any] = {
        layer: {key: optimizer.init(value) for key, value in own.items()} for layer, own in params.items()
    }
    state[LOSS_SCALE] = {"factor": put(np.asarray(1024.0)), "steps": put(np.asarray(0.0))}
    assert loss_scaling.INITIAL
    Counted.waits.clear()
    X, y = put(RNG.normal(size=(6, 5)), "float16"), put(np.arange(6) % 3)
    for _ in range(2):
        params, state, _ = step(params, state, X, y, None, None, 0.1)
    assert not Counted.waits
