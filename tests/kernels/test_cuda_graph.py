"""The recorded training step: the same numbers, bit for bit, as the one that is launched call by call.

On a machine without a GPU it runs on the stand-in for one, where what a graph cannot know shows as a wrong number.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from dense_xp import SGD, Adam, CosineSchedule, Dense, Sequential
from dense_xp.backend import Backend, get_backend, to_numpy, use_backend
from dense_xp.layers.layer import Layer
from dense_xp.learning.losses import Loss, MeanSquaredError, SoftmaxCrossEntropy
from dense_xp.learning.metrics import accuracy
from dense_xp.support.trees import flatten
from dense_xp.training.fused import stages
from dense_xp.training.fused.step import FusedStep
from dense_xp.training.fused.updates import RecordedUpdate
from tests.conftest import REQUIRED
from tests.kernels.kernel_sets import kernel_set, used_by_trainings
from tests.stand_ins import cuda_on_host
from tests.training.test_fused import BATCHES, LABELS, MODELS, ONE_HOT, OPTIMIZERS, RNG, X, built


@pytest.fixture(params=["cupy", "cupy-on-the-host"], autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    module, chosen = kernel_set(request.param)
    used_by_trainings(module, monkeypatch)
    with use_backend(chosen), chosen.scope():
        if module.blas()[0] is None and "cupy" not in REQUIRED:
            pytest.skip(module.blas()[1])
        yield module


def trained(
    kernels: Any, warm_up: int, name: str | Callable[[], Any], optimizer: Any, loss: Loss, y: Any, **options: Any
) -> tuple[FusedStep, list[list[float]], dict[str, Any]]:
    """Return a step, the values of each batch of some epochs, and what the model then has."""
    backend: Backend = get_backend()
    if callable(name):
        model: Layer = Sequential(name(), input_shape=(6,), dtype="float64", rng=0)
        model.initialize(optimizer)
    else:
        model = built(name, optimizer)
    options.get("prepare", lambda model: None)(model)
    weight, metrics = options.get("weight"), options.get("metrics", (accuracy,))
    before, kernels.cupy_graph.WARM_UP = kernels.cupy_graph.WARM_UP, warm_up
    try:
        step = FusedStep(model, loss, metrics, 12)
        rng = np.random.default_rng(7)
        values = []
        for _ in range(5):
            for rows in BATCHES:
                w = None if weight is None else backend.asarray(weight[rows])
                values.append(step(backend.asarray(X[rows]), backend.asarray(y[rows]), w, rng))
        step.hand_over()
    finally:
        kernels.cupy_graph.WARM_UP = before
    flat = {**flatten(model.params), **{f"state {k}": v for k, v in flatten(model.optimizer_state).items()}}
    return step, [[float(v) for v in one] for one in values], {key: to_numpy(value) for key, value in flat.items()}


def same(kernels: Any, *arguments: Any, **options: Any) -> FusedStep:
    """Train twice, recorded and not, and compare every bit."""
    _, expected, wanted = trained(kernels, 10**6, *arguments, **options)
    step, values, arrays = trained(kernels, 1, *arguments, **options)
    assert values == expected
    assert set(arrays) == set(wanted)
    for key, value in wanted.items():
        np.testing.assert_array_equal(arrays[key], value, err_msg=key)
    return step


def recorded(*arguments: Any, **options: Any) -> None:
    step = same(*arguments, **options)
    assert step.unrecorded == ""
    assert len(step.recorder.graphs) == 2  # one for the smaller batch


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model(kernels: Any, name: str) -> None:
    recorded(kernels, name, Adam(CosineSchedule(0.05, 12), weight_decay=0.01), SoftmaxCrossEntropy(), LABELS)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_every_optimizer(kernels: Any, optimizer: Any) -> None:
    recorded(kernels, "nested", optimizer, SoftmaxCrossEntropy(), LABELS)


@pytest.mark.parametrize("loss", [MeanSquaredError(), SoftmaxCrossEntropy(0.1)], ids=repr)
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_and_weights(kernels: Any, loss: Loss, weighted: bool) -> None:
    weight = RNG.uniform(0.5, 2.0, size=30) if weighted else None
    recorded(kernels, "dropout", Adam(0.01), loss, ONE_HOT, weight=weight)


def test_data_stored_by_columns(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stays has its rows one after the other, however a batch comes."""
    monkeypatch.setattr(kernels.cupy_graph, "WARM_UP", 1)
    put, losses = get_backend().asarray, []
    for place in (put, lambda x: put(x.T.copy()).T):
        step = FusedStep(built("relu", Adam(0.01)), SoftmaxCrossEntropy(), (), 30)
        losses.append([float(step(place(X), put(LABELS), None, None)[0]) for _ in range(4)])
        assert step.recorder.graphs
    np.testing.assert_allclose(*losses, rtol=1e-12)


def moved_before(model: Layer) -> None:
    """The first layer comes from another training: Adam corrects its averages less."""
    for state in model.layers[0].optimizer_state.values():  # type: ignore[attr-defined]
        state["steps"] += 6.0


def test_layers_that_have_moved_unequally_often(kernels: Any) -> None:
    arguments = kernels, "relu", Adam(0.01), SoftmaxCrossEntropy(), LABELS
    recorded(*arguments, prepare=moved_before)
    assert trained(*arguments[:1], 1, *arguments[1:])[1] != trained(
        *arguments[:1], 1, *arguments[1:], prepare=moved_before
    )[1]  # fmt: skip


def scaled_by_turns(kernels: Any, calls: int) -> list[Any]:
    recorder = kernels.Recorder(1, get_backend().dtype("float64"))
    ones = get_backend().asarray(np.ones(3))
    return [recorder(lambda x: (x * recorder.numbers[0],), (ones,), [float(i)])[0] for i in range(calls)]


def test_each_call_has_its_numbers(kernels: Any) -> None:
    for i, result in enumerate(scaled_by_turns(kernels, 40)):
        np.testing.assert_array_equal(to_numpy(result), [i] * 3)


def test_numbers_are_not_overwritten_on_their_way(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if kernels is not cuda_on_host.kernels():
        pytest.skip("a real device does what it likes")
    monkeypatch.setattr(cuda_on_host.Event, "synchronize", lambda self: None)
    with pytest.raises(AssertionError, match="a race"):
        scaled_by_turns(kernels, 40)


# ------------------------------------------------------------------ what cannot be recorded


class Squared(Layer):
    """A layer whose product is CuPy's own."""

    def forward(self, params: Any, X: Any, **kwargs: Any) -> Any:
        return X @ (X.T @ X), X

    def backward(self, params: Any, cache: Any, grad_Y: Any) -> Any:
        return 0.0 * grad_Y, {}

    def output_shape(self) -> Any:
        return self.input_shape


def waits(prediction: Any, target: Any, weight: Any = None) -> Any:
    """A metric that asks the device for a number."""
    return accuracy(prediction, target) * float(accuracy(prediction, target))


def brings(prediction: Any, target: Any, weight: Any = None) -> Any:
    """A metric that makes an array of Python numbers."""
    return accuracy(prediction, target) * get_backend().xp.asarray([0.5, 0.5])[0]


@pytest.mark.parametrize(
    ("options", "loss", "says"),
    [
        ({"metrics": (waits,)}, SoftmaxCrossEntropy(), "captur"),
        ({"metrics": (brings,)}, SoftmaxCrossEntropy(), "brings host data to the device"),
    ],
)
def test_what_waits_for_the_device_goes_on_call_by_call(kernels: Any, options: Any, loss: Loss, says: str) -> None:
    step = same(kernels, "dropout", Adam(0.01, clip_norm=0.1), loss, LABELS, **options)
    assert says in step.unrecorded.lower()
    assert not step.recorder.graphs


def test_products_of_cupy_go_on_call_by_call(kernels: Any) -> None:
    step = same(kernels, lambda: [Dense(6), Squared(), Dense(3)], Adam(0.01), SoftmaxCrossEntropy(), LABELS)
    assert "cuBLAS" in step.unrecorded


def test_without_products_that_can_be_recorded(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "blas", lambda: (None, "there are none"))
    step = same(kernels, "relu", Adam(0.01), SoftmaxCrossEntropy(), LABELS)
    assert step.unrecorded == "there are none"


def test_class_weights_lie_on_the_device(kernels: Any) -> None:
    step = same(kernels, "relu", Adam(0.01), SoftmaxCrossEntropy(class_weight=(1, 2, 3)), LABELS)
    assert step.unrecorded == ""


def test_what_a_graph_held_is_given_back(kernels: Any) -> None:
    if kernels is not cuda_on_host.kernels():
        pytest.skip("the stand-in alone tells")
    before = set(cuda_on_host.MemoryPool.kept)
    step = same(kernels, "relu", Adam(0.01), SoftmaxCrossEntropy(), LABELS)
    assert cuda_on_host.MemoryPool.kept - before
    uploads = cuda_on_host.pinned.uploads
    get_backend().asarray(np.ones(3))
    assert cuda_on_host.pinned.uploads == uploads + 1  # the allocator is CuPy's own again
    assert cuda_on_host.pinned.kept == 0
    del step
    gc.collect()
    assert cuda_on_host.MemoryPool.kept <= before


def test_no_handle_is_given_up_in_a_recording(kernels: Any) -> None:
    recorder = kernels.Recorder(1, get_backend().dtype("float64"))
    module = kernels.blas()[0]
    held = [module.Handle(kernels.cupy.cuda.Stream(non_blocking=True).ptr) for _ in range(3)]

    def leaves_garbage(x: Any) -> Any:
        circle = [held.pop()]
        circle.append(circle)  # type: ignore[arg-type]
        del circle
        assert len([[] for _ in range(5000)]) == 5000  # enough for a collection
        return (x * 2.0,)

    ones = get_backend().asarray(np.ones(3))
    for _ in range(4):
        recorder(leaves_garbage, (ones,), [0.0])
    assert recorder.reason == ""
    assert recorder.graphs
    assert gc.isenabled()


def test_the_history_says_why(kernels: Any) -> None:
    model = Sequential([Dense(3)], input_shape=(6,), rng=0)
    data = get_backend().asarray(X), get_backend().asarray(LABELS)
    assert model.fit(*data, 3, 12).unrecorded == ""
    assert "captur" in model.fit(*data, 3, 12, metrics=[waits]).unrecorded.lower()


# ------------------------------------------------------------------ what the stand-in would notice


def baked_in(self: Any, rate: float, steps: int, decays: bool) -> Any:
    return (rate, 1.0 - rate * self.optimizer.weight_decay, *self.constants(steps))


def not_copied(self: Any, arrays: Any) -> Any:
    self._graph.launch()
    return tuple(value.copy() for value in self._values)


def overwritten(self: Any, arrays: Any) -> Any:
    for place, array in zip(self._arrays[:2], arrays[:2], strict=True):
        place.data.copy_from_device_async(array.data, place.nbytes)
    self._graph.launch()
    return self._values


def no_pool(function: Any) -> Any:
    def made(self: Any, *arguments: Any) -> None:
        function(self, *arguments)
        self._pool = None

    return made


def new_averages(self: Any, X: Any, noise: Any) -> Any:
    """The running averages of batch normalization as new arrays at each step."""
    Y, self.cache = self.layer.forward(self.params, X, training=True, noise=noise)
    self.params = {**self.params, **self.layer.updated_buffers(self.cache)}
    return Y


@pytest.mark.parametrize("fault", ["rate", "input", "values", "pool", "state"])
def test_faults_that_the_stand_in_shows(
    kernels: Any, fault: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernels is not cuda_on_host.kernels():
        pytest.skip("a real device does what it likes")
    graph = kernels.cupy_graph._Graph
    if fault == "rate":
        monkeypatch.setattr(RecordedUpdate, "at", baked_in)
    elif fault == "input":
        monkeypatch.setattr(graph, "launch", not_copied)
    elif fault == "values":
        monkeypatch.setattr(graph, "launch", overwritten)
    elif fault == "pool":
        monkeypatch.setattr(graph, "__init__", no_pool(graph.__init__))
    else:
        monkeypatch.setattr(stages.Stage, "forward", new_averages)
    with pytest.raises(AssertionError):
        recorded(kernels, "norms", SGD(CosineSchedule(0.05, 12)), SoftmaxCrossEntropy(), LABELS)


def test_every_activation_is_a_part_of_its_layer(kernels: Any) -> None:
    for name in ("curves", "tanh", "sigmoid"):
        step = FusedStep(built(name, Adam(0.01)), SoftmaxCrossEntropy(), (), 12)
        assert {type(stage).__name__ for stage in step.stages} == {"DenseStage"}


@pytest.mark.parametrize(
    "name", ["linear", "relu", "tanh", "sigmoid", "leaky_relu", "elu", "gelu", "silu", "mish", "softplus"]
)
def test_an_activation_is_one_launch_each_way(kernels: Any, name: str) -> None:
    if kernels is not cuda_on_host.kernels():
        pytest.skip("the stand-in alone counts")
    grad, Z, Y, bias = (get_backend().asarray(np.ones(shape, "float32")) for shape in ((3, 5), (3, 5), (3, 5), (1, 5)))
    launched, counts = cuda_on_host.machine.launched, [len(cuda_on_host.machine.launched)]
    if hasattr(kernels, name):
        getattr(kernels, name)(Z, bias)
        counts.append(len(launched))
        getattr(kernels, f"{name}_backward")(grad, Z, bias)
    else:
        kernels.activation(name, {"leaky_relu": (0.1,), "elu": (1.0, 1.0)}.get(name, ()), Z, bias, Y)
        counts.append(len(launched))
        kernels.activation_backward(grad, Z, bias)
    assert np.diff([*counts, len(launched)]).tolist() == [1, 1]


@pytest.mark.parametrize("shape", [(300, 5), (700, 40), (16, 3), (64, 1)])
def test_the_rows_of_tall_arrays_are_shared_out(kernels: Any, shape: tuple[int, int]) -> None:
    """Some blocks a column; their shares are added up in an order that is always the same."""
    rng, put = np.random.default_rng(0), get_backend().asarray
    grad = rng.normal(size=shape).astype("float32")
    results = []
    for most in (1, kernels.MOST_SHARES, kernels.MOST_SHARES):
        for name, place in (("linear_backward", rng.normal(size=shape)), ("tanh_backward", np.tanh(grad))):
            kept, kernels.MOST_SHARES = kernels.MOST_SHARES, most
            try:
                total = put(np.zeros((1, shape[1]), "float32"))
                getattr(kernels, name)(put(grad), put(place.astype("float32")), total)
            finally:
                kernels.MOST_SHARES = kept
            results.append(to_numpy(total)[0])
    np.testing.assert_allclose(results[0], grad.sum(axis=0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(results[1], (grad * (1 - np.tanh(grad) ** 2)).sum(axis=0), rtol=1e-4, atol=1e-4)
    if kernels is cuda_on_host.kernels():
        placed, before = put(grad), len(cuda_on_host.machine.launched)
        kernels.linear_backward(placed, placed, total)
        assert len(cuda_on_host.machine.launched) - before == 1 + (shape[0] >= 8 * kernels.ROWS)
    for one, other, again in zip(results[:2], results[2:4], results[4:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(other, again)
