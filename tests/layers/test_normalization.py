"""LayerNorm and BatchNorm: torch's numbers, running statistics, and digits that are kept."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from dense_xp import SGD, BatchNorm, LayerNorm
from dense_xp.backend import Backend, to_numpy
from dense_xp.layers.layer import Layer
from tests.comparing import assert_close, assert_same_kind
from tests.layers.layer_gradients import assert_gradient

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 4)) * [1, 10, 0.1, 3] + [0, 5, -2, 1]
GAMMA, BETA = RNG.normal(size=(1, 4)), RNG.normal(size=(1, 4))
BOTH = pytest.mark.parametrize("kind", [LayerNorm, BatchNorm])


def made(kind: Any, backend: Backend, dtype: str = "float64", optimizer: Any = None, **kwargs: Any) -> Any:
    layer = kind(input_shape=(4,), backend=backend, dtype=dtype, **kwargs)
    layer.initialize(optimizer)
    layer.set_weights({"gamma": GAMMA, "beta": BETA})
    return layer


@pytest.mark.parametrize("shape", [(4,), (1, 4), (6, 4), (2, 3, 4)])
def test_layer_norm_is_that_of_torch(backend: Backend, shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    x = np.resize(X, shape)
    theirs = torch.tensor(x, requires_grad=True)
    gamma, beta = (torch.tensor(value[0], requires_grad=True) for value in (GAMMA, BETA))
    expected = torch.nn.functional.layer_norm(theirs, (4,), gamma, beta, eps=1e-3)
    G = np.random.default_rng(1).normal(size=shape)
    expected.backward(torch.tensor(G))
    layer = made(LayerNorm, backend, epsilon=1e-3)
    Y, cache = layer.forward(layer.params, backend.asarray(x))
    grad_X, grads = layer.backward(layer.params, cache, backend.asarray(G))
    assert_close(Y, expected.detach().numpy(), backend)
    assert_close(grad_X, theirs.grad.numpy(), backend, ulps=256)
    assert_close(grads["gamma"], gamma.grad.numpy()[None], backend)
    assert_close(grads["beta"], beta.grad.numpy()[None], backend)
    assert set(grads) == {"gamma", "beta"}


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_that_of_torch_over_several_steps(backend: Backend, training: bool) -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.nn.BatchNorm1d(4, eps=1e-3, momentum=0.3, dtype=torch.float64)
    theirs.load_state_dict({**theirs.state_dict(), "weight": torch.tensor(GAMMA[0]), "bias": torch.tensor(BETA[0])})
    layer = made(BatchNorm, backend, epsilon=1e-3, momentum=0.3)
    for step in range(3):
        batch = X + step
        theirs.train()
        theirs(torch.tensor(batch))
        layer.forward_pass(backend.asarray(batch))
    assert_close(layer.weights["running_mean"], theirs.running_mean.numpy()[None], backend)
    assert_close(layer.weights["running_variance"], theirs.running_var.numpy()[None], backend)
    theirs.train(training)
    x = torch.tensor(X, requires_grad=True)
    theirs.zero_grad()
    expected = theirs(x)
    G = np.random.default_rng(1).normal(size=X.shape)
    expected.backward(torch.tensor(G))
    Y, cache = layer.forward(layer.params, backend.asarray(X), training=training)
    grad_X, grads = layer.backward(layer.params, cache, backend.asarray(G))
    assert_close(Y, expected.detach().numpy(), backend)
    assert_close(grad_X, x.grad.numpy(), backend, ulps=256)
    assert_close(grads["gamma"], theirs.weight.grad.numpy()[None], backend)
    assert_close(grads["beta"], theirs.bias.grad.numpy()[None], backend)
    assert set(grads) == {"gamma", "beta"}
    assert set(layer.updated_buffers(cache)) == ({"running_mean", "running_variance"} if training else set())


@BOTH
def test_leading_axes_are_samples(backend: Backend, kind: Any) -> None:
    layer = made(kind, backend)
    flat, flat_cache = layer.forward(layer.params, backend.asarray(X), training=True)
    Y, cache = layer.forward(layer.params, backend.asarray(X.reshape(2, 3, 4)), training=True)
    assert_close(Y, to_numpy(flat).reshape(2, 3, 4), backend)
    G = np.random.default_rng(1).normal(size=X.shape)
    flat_grad, flat_grads = layer.backward(layer.params, flat_cache, backend.asarray(G))
    grad, grads = layer.backward(layer.params, cache, backend.asarray(G.reshape(2, 3, 4)))
    assert_close(grad, to_numpy(flat_grad).reshape(2, 3, 4), backend)
    for name, value in grads.items():
        assert_close(value, to_numpy(flat_grads[name]), backend)


@pytest.mark.parametrize(("kind", "training"), [(LayerNorm, True), (BatchNorm, True), (BatchNorm, False)])
def test_gradients_by_random_projection(backend: Backend, kind: Any, training: bool) -> None:
    assert_gradient(made(kind, backend), backend, RNG.normal(size=(5, 4)), training=training)


@BOTH
def test_a_large_mean_costs_no_digits(backend: Backend, kind: Any) -> None:
    """Integers around 2¹⁴ are exact in float32; the mean of squares minus the square of the mean is not."""
    x = np.asarray([[0, 1, 2, 3], [1, 2, 3, 0], [2, 3, 0, 1], [3, 0, 1, 2]]) + 2.0**14
    layer = made(kind, backend, "float32", epsilon=1e-12)
    Y, _ = layer.forward(layer.params, backend.asarray(x, "float32"), training=True)
    normed = (x - 2.0**14 - 1.5) / np.sqrt(1.25)  # alike by rows and by columns
    assert_close(Y, normed * GAMMA.astype("float32") + BETA.astype("float32"), backend, "float32", ulps=16)


@BOTH
def test_gamma_and_beta_learn_and_nothing_else_does(backend: Backend, kind: Any) -> None:
    layer = made(kind, backend, optimizer=SGD(0.1))
    x, G = backend.asarray(X), backend.asarray(np.random.default_rng(1).normal(size=X.shape))
    _, cache = layer.forward(layer.params, x, training=True)
    _, grads = layer.backward(layer.params, cache, G)
    layer.forward_pass(x)
    buffers = {name: to_numpy(layer.weights[name]).copy() for name in kind.buffers}
    layer.backward_pass(G)
    for name, start in (("gamma", GAMMA), ("beta", BETA)):
        assert_close(layer.weights[name], start - 0.1 * to_numpy(grads[name]), backend)
    for name, value in buffers.items():
        np.testing.assert_array_equal(to_numpy(layer.weights[name]), value)
    assert layer.parameters() == 8
    assert set(layer.optimizer_state) == {"gamma", "beta"}


def test_running_statistics_move_in_training_only(backend: Backend) -> None:
    layer = made(BatchNorm, backend)
    before = {name: to_numpy(value).copy() for name, value in layer.weights.items()}
    layer.forward_pass(backend.asarray(X), training=False)
    for name, value in layer.weights.items():
        np.testing.assert_array_equal(to_numpy(value), before[name])
    assert_close(layer.forward_pass(backend.asarray(X), training=False), X / np.sqrt(1 + 1e-5) * GAMMA + BETA, backend)


def test_a_batch_of_one_is_beta(backend: Backend) -> None:
    layer = made(BatchNorm, backend)
    assert_close(layer.forward_pass(backend.asarray(X[:1])), BETA, backend)
    assert_close(layer.weights["running_variance"], np.full((1, 4), 0.9), backend)


@BOTH
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_dtype_stays(backend: Backend, kind: Any, dtype: str) -> None:
    if not hasattr(backend.xp, dtype):
        pytest.skip(f"{backend} has no {dtype}")
    layer = made(kind, backend, dtype, optimizer="sgd")
    Y = layer.forward_pass(backend.asarray(X, dtype))
    assert_same_kind(Y, backend, dtype, X.shape)
    assert_same_kind(layer.backward_pass(Y), backend, dtype, X.shape)
    for value in layer.weights.values():
        assert_same_kind(value, backend, dtype, (1, 4))


def test_sixteen_bits_sum_in_thirty_two(backend: Backend) -> None:
    """4,096 rows of ones: their gradient's sum is exact, where float16 would stop at 2,048."""
    if not hasattr(backend.xp, "float16"):
        pytest.skip(f"{backend} has no float16")
    layer = made(LayerNorm, backend, "float16")
    ones = backend.asarray(np.ones((4096, 4)), "float16")
    _, cache = layer.forward(layer.params, ones)
    assert np.all(to_numpy(layer.backward(layer.params, cache, ones)[1]["beta"]) == 4096)


@BOTH
def test_pickles_moves_and_configurations_keep_everything(backend: Backend, kind: Any) -> None:
    layer = made(kind, backend)
    layer.forward_pass(backend.asarray(X))
    expected = {name: to_numpy(value) for name, value in layer.weights.items()}
    moved: Layer = pickle.loads(pickle.dumps(layer)).to("numpy")
    for name, value in moved.weights.items():
        np.testing.assert_array_equal(value, expected[name])
    assert kind.from_config(layer.get_config()).get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: LayerNorm(epsilon=0), "epsilon must be a positive number"),
        (lambda: BatchNorm(epsilon="small"), "epsilon must be a positive number"),
        (lambda: BatchNorm(momentum=0), "momentum must be a number, above 0 and at most 1, and is 0"),
        (lambda: BatchNorm(momentum=1.1), "momentum"),
        (lambda: BatchNorm(momentum=True), "momentum"),
    ],
)
def test_arguments_out_of_range(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()
