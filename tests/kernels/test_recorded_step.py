"""The pure step as a recorded one: in 16 bits, and for models that the step with kernels does not serve.

The recorded steps give the same bits as the ones that are launched call by call, and those the numbers of the pure
step in arrays of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dense_xp import SGD, Adam, AdamW, CosineSchedule, Dense, LayerNorm, Lion, Sequential, SoftOrthogonality
from dense_xp.backend import get_backend, to_numpy, use_backend
from dense_xp.layers.layer import Layer
from dense_xp.learning.losses import MeanSquaredError, SoftmaxCrossEntropy
from dense_xp.learning.metrics import accuracy
from dense_xp.support.trees import flatten
from dense_xp.training import recorded
from dense_xp.training.compiled import CompiledStep
from dense_xp.training.fused.step import FusedStep
from dense_xp.training.recorded import RecordedStep
from dense_xp.training.steps import stepper
from tests.conftest import REQUIRED
from tests.kernels.kernel_sets import kernel_set, used_by_trainings
from tests.stand_ins import cuda_on_host
from tests.training.test_fused import BATCHES, LABELS, MODELS, X

NEVER = 10**6
SIXTEEN_BITS = [name for name in MODELS if name != "one layer"]


@pytest.fixture(params=["cupy", "cupy-on-the-host"], autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    module, chosen = kernel_set(request.param)
    used_by_trainings(module, monkeypatch)
    with use_backend(chosen), chosen.scope():
        if module.blas()[0] is None and "cupy" not in REQUIRED:
            pytest.skip(module.blas()[1])
        yield module


def network(name: str, dtype: str = "float16") -> Sequential:
    return Sequential(MODELS[name](), input_shape=(6,), dtype=dtype, rng=0)


def trained(
    kind: type[CompiledStep], model: Layer, optimizer: Any, loss: Any = None, data: Any = X, target: Any = LABELS
) -> tuple[Any, list[list[float]], dict[str, Any]]:
    """Return a step, the values of each batch of some epochs, and what the model then has."""
    model.initialize(optimizer)
    step = kind(model, loss or SoftmaxCrossEntropy(), {"accuracy": accuracy})
    put, rng, values = get_backend().asarray, np.random.default_rng(7), []
    for _ in range(4):
        step.begin_epoch()
        values += [step(put(data[rows], model.dtype), put(target[rows]), None, rng) for rows in BATCHES]
        step.hand_over()
    flat = {**flatten(model.params), **{f"state {k}": v for k, v in flatten(model.optimizer_state).items()}}
    return step, [[float(v) for v in one] for one in values], {key: to_numpy(value) for key, value in flat.items()}


def same(kernels: Any, monkeypatch: pytest.MonkeyPatch, model: Any, *arguments: Any, **options: Any) -> Any:
    """Train recorded, call by call and in arrays of their own; compare the first two bit by bit."""
    found = []
    for warm_up in (1, NEVER):
        monkeypatch.setattr(kernels.cupy_graph, "WARM_UP", warm_up)
        found.append(trained(RecordedStep, model(), *arguments, **options))
    (step, *results), (_, *expected) = found
    assert step.unrecorded == ""
    assert len(step.recorder.graphs) == 2  # one for the smaller batch
    assert results[0] == expected[0]
    assert set(results[1]) == set(expected[1])
    for key, value in expected[1].items():
        np.testing.assert_array_equal(results[1][key], value, err_msg=key)
        assert results[1][key].dtype == value.dtype
    _, values, arrays = trained(CompiledStep, model(), *arguments, **options)
    np.testing.assert_allclose(results[0], values, rtol=0.02, atol=0.02)
    for key, value in arrays.items():
        np.testing.assert_allclose(results[1][key], value, rtol=0.05, atol=0.02, err_msg=key)
    return step


@pytest.mark.parametrize("name", SIXTEEN_BITS)
def test_every_kind_of_model_in_16_bits(kernels: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    same(kernels, monkeypatch, lambda: network(name), SGD(CosineSchedule(0.05, 12), momentum=0.5, weight_decay=0.01))


@pytest.mark.parametrize(
    "optimizer", [Adam(0.01), AdamW(CosineSchedule(0.05, 12)), Lion(0.001), SGD(0.1, clip_norm=0.1)], ids=repr
)
def test_optimizers_in_16_bits(kernels: Any, monkeypatch: pytest.MonkeyPatch, optimizer: Any) -> None:
    same(kernels, monkeypatch, lambda: network("norms"), optimizer)


def test_more_than_eight_parameters_in_16_bits(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy would bring the addresses of so many checks to the device, if they were stacked."""
    layers = [Dense(8, activation="relu") for _ in range(5)]
    same(kernels, monkeypatch, lambda: Sequential([*layers, Dense(3)], input_shape=(6,), dtype="float16", rng=0), SGD())


def test_a_step_that_overflows_is_left_out(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the scale of the loss halved, on the device: no step knows of it on the host."""
    far = np.full((30, 3), 3e4)
    step = same(
        kernels,
        monkeypatch,
        lambda: network("linear"),
        SGD(1e-6),
        loss=MeanSquaredError(),
        target=far.astype("float32"),
    )
    assert step.model.loss_scale[0] < 2.0**15


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_more_axes(kernels: Any, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    rng = np.random.default_rng(0)
    data, target = rng.normal(size=(30, 4, 6)), rng.normal(size=(30, 4, 3)).astype(dtype)

    def model() -> Sequential:
        hidden = Dense(8, activation="gelu").regularized(W=SoftOrthogonality(0.1))
        return Sequential([hidden, LayerNorm(), Dense(3)], input_shape=(6,), dtype=dtype, rng=0)

    same(kernels, monkeypatch, model, Adam(0.01), loss=MeanSquaredError(), data=data, target=target)


class Own(SGD):
    """A rule that has no kernel."""

    def direction(self, param: Any, grad: Any, state: Any) -> Any:
        return 0.5 * grad + 0.001 * param, state


class Impure(Own):
    """One that looks at the host."""

    traceable = False


def test_which_step_serves() -> None:
    def kind(optimizer: Any, dtype: str, ndim: int = 2) -> type:
        model = network("relu", dtype)
        model.initialize(optimizer)
        return type(stepper(model, SoftmaxCrossEntropy(), {}, ndim, 12))

    assert kind(SGD(), "float32") is FusedStep
    assert kind(SGD(), "float32", 3) is RecordedStep
    assert kind(SGD(), "float16") is RecordedStep
    assert kind(Own(), "float32") is RecordedStep
    assert kind(Impure(), "float32") is CompiledStep


def test_an_optimizer_of_ones_own(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    same(kernels, monkeypatch, lambda: network("relu", "float64"), Own(0.1))


def test_a_fit_in_16_bits_is_recorded(kernels: Any) -> None:
    model, put = network("relu"), get_backend().asarray
    history = model.fit(put(X, "float16"), put(LABELS), 4, 12, validation_data=(put(X, "float16"), put(LABELS)))
    assert history.unrecorded == ""
    assert history["loss"][-1] < history["loss"][0]
    own = flatten(model.params)
    before = {key: to_numpy(value).copy() for key, value in own.items()}
    model.fit(put(X, "float16"), put(LABELS), 2, 12)
    for key, value in own.items():  # what the model had is not written into
        np.testing.assert_array_equal(to_numpy(value), before[key])


# ------------------------------------------------------------------ what the stand-in would notice


def baked_in(self: Any, function: Any, *arrays: Any) -> Any:
    """The learning rate of the recording."""
    params, state, values = function(self.arrays, self.state, *arrays, self.model.learning_rate())
    for place, array in zip([*self.arrays, *self.state], [*params, *state], strict=True):
        place[...] = array
    return tuple(values)


def replaced(self: Any, function: Any, *arrays: Any) -> Any:
    """New arrays, as the step has that is not recorded."""
    self.arrays, self.state, values = function(self.arrays, self.state, *arrays, self.recorder.numbers[0])
    return tuple(values)


@pytest.mark.parametrize("fault", [baked_in, replaced])
def test_faults_that_the_stand_in_shows(kernels: Any, monkeypatch: pytest.MonkeyPatch, fault: Any) -> None:
    if kernels is not cuda_on_host.kernels():
        pytest.skip("a real device does what it likes")
    monkeypatch.setattr(recorded.RecordedStep, "work", fault)
    with pytest.raises(AssertionError):
        same(kernels, monkeypatch, lambda: network("relu"), SGD(CosineSchedule(0.05, 12)))
