"""Nothing in the mathematics waits for the device: no number of it is needed in Python."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import dense_xp
from dense_xp import (
    AUC,
    F1,
    L1,
    L1L2,
    L2,
    R2,
    Accuracy,
    Dense,
    FBeta,
    Gamma,
    GaussianNLL,
    Huber,
    LoRA,
    MaxNorm,
    MeanAbsoluteError,
    MeanSquaredError,
    MinMaxNorm,
    NonNegative,
    Poisson,
    Precision,
    Quantile,
    QuantizedDense,
    Recall,
    Sequential,
    SigmoidCrossEntropy,
    SoftOrthogonality,
    TopK,
    Tweedie,
    UnitNorm,
)
from dense_xp.evidence.parity import Case, cases
from dense_xp.learning import loss_scaling
from dense_xp.learning.constraints import CONSTRAINTS as BY_NAME
from dense_xp.learning.losses import SoftmaxCrossEntropy
from dense_xp.learning.metrics import accuracy
from dense_xp.learning.optimizers import Adam, Lion
from dense_xp.support.trees import flatten, unflatten
from dense_xp.training.step import LOSS_SCALE, train_step
from tests.comparing import name_of
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


LAYERS: dict[str, Any] = {
    "LoRA": lambda: LoRA(Dense(3, (5,), activation="silu", rng=0), 2),
    "QuantizedDense": lambda: QuantizedDense(3, (5,), activation="tanh"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_made_of_others(name: str) -> None:
    layer = LAYERS[name]()
    params = {key: put(value) for key, value in layer.init_params(np.random.default_rng(0)).items()}
    Y, cache = layer.forward(params, put(RNG.normal(size=(4, 5))), training=True)
    layer.backward(params, cache, Y)
    layer.parameter_gradients(params, cache, Y)
    assert not Counted.waits


LOSSES = [
    MeanSquaredError(),
    MeanAbsoluteError(),
    Huber(0.5),
    SigmoidCrossEntropy(2.0),
    SoftmaxCrossEntropy(0.1, class_weight=(1.0, 2.0, 0.5)),
    SoftmaxCrossEntropy(0.1, ignore_index=2),
    Quantile((0.1, 0.9)),
    Poisson(),
    Gamma(),
    Tweedie(),
    GaussianNLL(),
]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_losses_with_and_without_weights(loss: Any, dtype: str) -> None:
    prediction, weight = put(RNG.normal(size=(6, 3 * loss.outputs_per_target)), dtype), put(np.arange(6.0))
    targets = [put(RNG.dirichlet(np.ones(3), size=6))]
    targets += [put(np.arange(6) % 3)] if isinstance(loss, SoftmaxCrossEntropy) else []
    for target in targets:
        for own in (None, weight):
            loss.value_and_grad(prediction, target, own)
    assert not Counted.waits


REGULARIZERS = [L1(0.1), L2(0.1), L1L2(0.1, 0.1), SoftOrthogonality(0.1)]


@pytest.mark.parametrize("rule", REGULARIZERS, ids=repr)
def test_regularizers(rule: Any) -> None:
    W = put(RNG.normal(size=(4, 3)))
    rule.penalty(W)
    rule.gradient(W)
    assert not Counted.waits


CONSTRAINTS = [MaxNorm(1.0), MinMaxNorm(0.5, 1.0), NonNegative(), UnitNorm()]


@pytest.mark.parametrize("rule", CONSTRAINTS, ids=repr)
def test_constraints(rule: Any) -> None:
    rule(put(RNG.normal(size=(4, 3))))
    assert not Counted.waits


METRICS = [
    accuracy, Accuracy(), AUC(), F1(), FBeta(2.0), Precision(), Recall(), TopK(2), R2(),
    AUC(multilabel=True), F1(multilabel=True),
    *(metric(ignore_index=2) for metric in (Accuracy, AUC, F1, TopK)), F1(multilabel=True, ignore_index=2),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("metric", METRICS, ids=name_of)
def test_metrics(metric: Any, dtype: str) -> None:
    prediction, labels, weight = put(RNG.normal(size=(6, 3)), dtype), put(np.arange(6) % 3), put(np.ones(6))
    rows = isinstance(metric, R2) or getattr(metric, "multilabel", False)
    target = put(RNG.normal(size=(6, 3))) if rows else labels
    for own in (None, weight):
        (metric.statistics if hasattr(metric, "statistics") else metric)(prediction, target, own)
    assert not Counted.waits


def test_nothing_of_the_package_is_missing_here() -> None:
    """Every layer, loss, optimizer, metric, regularizer and constraint is in one of the tests of this file."""
    here = {type(thing).__name__ for thing in (*LOSSES, *REGULARIZERS, *CONSTRAINTS, *METRICS)} | {*CASES, *LAYERS}
    kinds = (dense_xp.Layer, dense_xp.Loss, dense_xp.Optimizer, dense_xp.Metric, dense_xp.Regularizer)
    public = {getattr(dense_xp, name) for name in dense_xp.__all__ if isinstance(getattr(dense_xp, name), type)}
    wanted = {kind.__name__ for kind in public if issubclass(kind, kinds) and kind not in kinds}
    assert wanted | {kind.__name__ for kind in BY_NAME.values()} <= here


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
