"""A second CUDA device beside the one that is current: arrays, streams and memory lie where the backend says.

Nobody enters :meth:`Backend.scope` here, as users do not. On the stand-in, whatever works on memory, a stream, an event
or a handle of the other device is told so.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dense_xp import (
    Dense,
    DenseEnsemble,
    Dropout,
    EnsembleMean,
    MovingAverage,
    PiecewiseLinear,
    Quantile,
    Sequential,
    SoftmaxCrossEntropy,
)
from dense_xp.backend import Backend, BackendError, get_backend
from dense_xp.layers.initializers import EachMember
from dense_xp.learning.members import MemberLoss
from dense_xp.support.trees import flatten
from dense_xp.training.fitting import repeated_step
from tests.kernels.kernel_sets import kernel_set, used_by_trainings
from tests.stand_ins import cuda_on_host

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 6)).astype("float32")
LABELS = RNG.integers(0, 3, size=60)


@pytest.fixture(params=["cupy", "cupy-on-the-host"])
def second(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    module, _ = kernel_set(request.param)
    used_by_trainings(module, monkeypatch)
    if request.param == "cupy-on-the-host":
        yield cuda_on_host.backend(1)
        assert cuda_on_host.Device.current == 0
        return
    try:
        yield get_backend("cupy:1")
    except BackendError as error:
        pytest.skip(str(error))


def ensemble(k: int) -> list[Any]:
    first = Dense(4 * k, activation="relu", kernel_initializer=EachMember("fan_in_uniform", k))
    return [first, DenseEnsemble(3, k), EnsembleMean(k, "softmax")]


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "dense": (lambda: [Dense(8, activation="gelu"), Dense(3)], {}),
    "dropout": (lambda: [Dense(8, activation="relu"), Dropout(0.5), Dense(3)], {}),
    "piecewise": (lambda: [PiecewiseLinear.from_data(X, 4), Dense(3)], {}),
    "ensemble": (lambda: ensemble(3), {"loss": MemberLoss(SoftmaxCrossEntropy(class_weight=(1, 2, 3)))}),
    "average": (lambda: [Dense(3)], {"callbacks": [MovingAverage(0.9)]}),
    "accumulated": (lambda: [Dense(3)], {"accumulate": 2}),
    "both": (lambda: [Dense(3)], {"accumulate": 2, "callbacks": [MovingAverage(0.9)], "metrics": ["accuracy"]}),
    "weights": (lambda: [Dense(3)], {"sample_weight": np.linspace(0.5, 1.0, 60)}),
    "quantiles": (lambda: [Dense(2)], {"loss": Quantile((0.1, 0.9))}),
}


def first(second: Backend) -> Backend:
    return cuda_on_host.backend(0) if second.name == "cuda_on_host" else get_backend("cupy:0")


def places(model: Any, backend: Backend) -> None:
    for name, value in {**flatten(model.params), **flatten(model.optimizer_state)}.items():
        assert backend.library.same_device(value, backend.device), name


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("where", ["host", "device"])
@pytest.mark.parametrize("name", CASES)
def test_a_training(second: Backend, name: str, where: str, dtype: str) -> None:
    layers, options = CASES[name]
    target = X[:, 0] if name == "quantiles" else LABELS
    place: Any = second.asarray if where == "device" else np.asarray
    data = place(X), place(target)
    model = Sequential(layers(), backend=second, dtype=dtype, rng=0)
    history = model.fit(*data, 4, 12, validation_data=data, **options)
    assert history.unrecorded == ""
    places(model, second)
    model.evaluate(*data, loss=options.get("loss"))
    other = Sequential(layers(), backend=first(second), dtype=dtype, rng=0)
    assert other.fit(X, target, 4, 12, **options)["loss"] == history["loss"]
    expected, answer = other.predict(X), model.predictor()
    for _ in range(4):  # call by call, and then recorded
        output = answer(data[0])
        if where == "device":
            assert second.library.same_device(output, second.device)
            output = second.to_numpy(output)
        np.testing.assert_array_equal(output, expected)


def test_streams(second: Backend) -> None:
    pieces = [(X[i : i + 12], LABELS[i : i + 12]) for i in range(0, 60, 12)]
    model = Sequential([Dense(8, activation="relu"), Dense(3)], backend=second, rng=0)
    assert model.fit(lambda: iter(pieces), epochs=4).unrecorded == ""
    places(model, second)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_repeated_step(second: Backend, dtype: str) -> None:
    model = Sequential([Dense(8, activation="tanh"), Dense(3)], input_shape=(6,), backend=second, dtype=dtype, rng=0)
    model.initialize("adam")
    step = repeated_step(model, second.asarray(X, dtype), second.asarray(LABELS))
    losses = [step() for _ in range(5)]
    assert all(second.library.same_device(loss, second.device) for loss in losses)
    assert float(second.to_numpy(losses[-1])) < float(second.to_numpy(losses[0]))


def test_what_a_graph_held_goes_back_to_its_own_device(second: Backend) -> None:
    if second.name != "cuda_on_host":
        pytest.skip("the stand-in alone tells")
    before = set(cuda_on_host.MemoryPool.kept)
    model = Sequential([Dense(8, activation="tanh"), Dense(3)], input_shape=(6,), backend=second, rng=0)
    model.initialize("adam")
    step = repeated_step(model, second.asarray(X), second.asarray(LABELS))
    for _ in range(4):
        step()
    assert cuda_on_host.MemoryPool.kept - before
    del step
    gc.collect()
    assert cuda_on_host.MemoryPool.kept <= before


def test_the_stand_in_tells_the_devices_apart(second: Backend) -> None:
    if second.name != "cuda_on_host":
        pytest.skip("a real device does what it likes")
    array = second.asarray(X)
    assert second.library.same_device(array, cuda_on_host.Device(1))
    with pytest.raises(AssertionError, match="the other device"):
        array + 1.0
    with second.scope():
        event = cuda_on_host.Event()
    with pytest.raises(AssertionError, match="the other device"):
        event.record()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", [*CASES, "ten members"])
def test_no_step_reads_a_number_back_or_brings_one(
    second: Backend, name: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More batches, and no more copies; but for the losses of an epoch, whose addresses travel if they are many."""
    if second.name != "cuda_on_host":
        pytest.skip("the stand-in alone tells")
    layers, options = CASES.get(name, (lambda: ensemble(10), {"loss": MemberLoss(SoftmaxCrossEntropy())}))
    data = second.asarray(X), second.asarray(X[:, 0] if name == "quantiles" else LABELS)
    read: list[Any] = []
    get = cuda_on_host.DeviceArray.get

    def noted(self: Any) -> Any:
        read.append(self)
        return get(self)

    monkeypatch.setattr(cuda_on_host.DeviceArray, "get", noted)
    copies = []
    for batch_size in (30, 6):
        model = Sequential(layers(), backend=second, dtype=dtype, rng=0)
        model.fit(*data, 1, 30, **{key: value for key, value in options.items() if key != "callbacks"})
        before = len(read), cuda_on_host.pinned.uploads
        assert model.fit(*data, 2, batch_size, **options).unrecorded == ""
        copies.append((len(read) - before[0], cuda_on_host.pinned.uploads - before[1]))
    addresses = 2 * (1 + len(options.get("metrics", ())))
    assert copies[1][0] == copies[0][0]
    assert copies[1][1] - copies[0][1] <= addresses
