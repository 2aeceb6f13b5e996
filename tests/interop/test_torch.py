"""Models from PyTorch and back: the same bits, and predictions within the bound of either side's formulas."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

from dense_xp import (
    ELU,
    GELU,
    BatchNorm,
    Dense,
    Dropout,
    Layer,
    LayerNorm,
    LeakyReLU,
    ReLU,
    Sequential,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
    to_numpy,
)
from dense_xp.backend import Backend
from dense_xp.interop import from_torch, to_torch
from tests.references import check, erf_gelu, folded_batch_norm, plain_softplus, randomized

torch = pytest.importorskip("torch")
nn = torch.nn

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order() -> None:
    torch.manual_seed(0)
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


TORCH = {BatchNorm: folded_batch_norm, GELU: erf_gelu, Softplus: plain_softplus}
MODULES: dict[str, Any] = {
    "linear": lambda: nn.Linear(13, 5),
    "linear without bias": lambda: nn.Linear(13, 5, bias=False),
    "layer norm": lambda: nn.LayerNorm(13, eps=1e-3),
    "layer norm without bias": lambda: nn.LayerNorm(13, bias=False),
    "layer norm without weights": lambda: nn.LayerNorm((13,), elementwise_affine=False),
    "batch norm": lambda: nn.BatchNorm1d(13, eps=1e-3, momentum=0.3),
    "batch norm without weights": lambda: nn.BatchNorm1d(13, affine=False),
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky relu": lambda: nn.LeakyReLU(0.2),
    "elu": lambda: nn.ELU(1.5),
    "gelu": lambda: nn.GELU(),
    "silu": lambda: nn.SiLU(),
    "selu": lambda: nn.SELU(),
    "mish": lambda: nn.Mish(),
    "tanh": lambda: nn.Tanh(),
    "sigmoid": lambda: nn.Sigmoid(),
    "softplus": lambda: nn.Softplus(),
    "softmax": lambda: nn.Softmax(dim=1),
    "network": lambda: nn.Sequential(
        OrderedDict(
            flat=nn.Flatten(),
            first=nn.Linear(13, 8),
            norm=nn.BatchNorm1d(8),
            act=nn.ReLU(),
            drop=nn.Dropout(0.1),
            inner=nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Identity(), nn.LayerNorm(6, eps=0.1)),
            last=nn.Linear(6, 2),
        )
    ),
}


def perturbed(module: Any) -> Any:
    """Give every weight a value of its own, and leave training mode."""
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if value.is_floating_point():
                noise = torch.from_numpy(RNG.uniform(0.1, 0.4, size=tuple(value.shape)))
                value.add_(noise if name.endswith("var") else noise - 0.25)
    return module.eval()


def predicted(module: Any, X: Any) -> Any:
    with torch.no_grad():
        return module(torch.from_numpy(X)).numpy()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("name", MODULES)
def test_both_predict_the_same(name: str, dtype: str) -> None:
    module = perturbed(nn.Sequential(nn.Linear(13, 13), MODULES[name]())).to(getattr(torch, dtype))
    X = (3 * RNG.normal(size=(500, 13))).astype(dtype)
    model = from_torch(module, backend="numpy")
    assert model.dtype == dtype
    check(predicted(module, X), model, X, dtype, TORCH)
    check(model.predict(X), model, X, dtype)
    check(predicted(to_torch(model), X), model, X, dtype, TORCH)


def test_weights_keep_their_bits_on_every_backend(backend: Backend) -> None:
    module = perturbed(MODULES["network"]())
    model = from_torch(module, backend=backend)
    assert model.backend == backend
    assert [type(layer) for layer in model.layers] == [Dense, BatchNorm, ReLU, Dropout, Sequential, Dense]
    state = {name: value.numpy() for name, value in module.state_dict().items()}
    for ours, theirs in (("dense.W", "first.weight"), ("sequential.dense.W", "inner.0.weight")):
        np.testing.assert_array_equal(to_numpy(model.weights[ours]), state[theirs].T)
    ours = {"gamma": "weight", "beta": "bias", "running_mean": "running_mean", "running_variance": "running_var"}
    for name, theirs in ours.items():
        np.testing.assert_array_equal(to_numpy(model.weights[f"batch_norm.{name}"])[0], state[f"norm.{theirs}"])
    back = [value for name, value in to_torch(model).state_dict().items() if not name.endswith("tracked")]
    there = [value for name, value in state.items() if not name.endswith("tracked")]
    assert len(back) == len(there)
    for value, expected in zip(back, there, strict=True):
        np.testing.assert_array_equal(value.numpy(), expected)


def everything(**kwargs: Any) -> Sequential:
    activations = ["relu", LeakyReLU(0.2), ELU(2.0), "gelu", "silu", "tanh", "sigmoid", "softplus", None]
    layers: list[Layer] = [Dense(7, activation=activation) for activation in activations]
    layers += [LayerNorm(epsilon=1e-4), BatchNorm(momentum=0.2), Dropout(0.25), ReLU()]
    layers += [Sequential([Dense(5, use_bias=False), SiLU()]), Dense(3, activation="softmax")]
    return Sequential(layers, input_shape=(4,), rng=0, **kwargs)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_a_round_trip_changes_nothing(dtype: str) -> None:
    model = everything(dtype=dtype, backend="torch" if dtype == "bfloat16" else "numpy")
    model.layers[1].trainable = model.layers[10].trainable = False
    model.initialize()
    randomized(model, RNG)
    module = to_torch(model)
    assert not module.training
    assert {str(value.dtype) for value in module.parameters()} == {f"torch.{dtype}"}
    again = from_torch(module, backend=model.backend)
    assert [layer.trainable for layer in again.layers] == [layer.trainable for layer in model.layers]
    assert list(again.weights) == list(model.weights)
    for name, value in model.weights.items():
        assert again.weights[name].dtype == value.dtype
        np.testing.assert_array_equal(to_numpy(again.weights[name]), to_numpy(value), err_msg=name)
    X = RNG.normal(size=(9, 4))
    np.testing.assert_array_equal(to_numpy(again.predict(X)), to_numpy(model.predict(X)))
    for one, two in zip(model.layers, again.layers, strict=True):
        assert str(getattr(one, "activation", one)) == str(getattr(two, "activation", two)) or type(one) is not Dense
        if isinstance(one, BatchNorm):
            assert (one.momentum, one.epsilon) == (two.momentum, two.epsilon)
        if isinstance(one, Dropout):
            assert one.rate == two.rate


def test_what_is_written_is_independent_of_the_model(backend: Backend) -> None:
    model = Sequential([Dense(3), BatchNorm()], input_shape=(2,), backend=backend, rng=0)
    model.initialize()
    before = {name: to_numpy(value).copy() for name, value in model.weights.items()}
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    module = to_torch(model)
    assert torch.equal(torch.rand(3), expected)  # no random number of torch was used up
    with torch.no_grad():
        for value in module.state_dict().values():
            value.add_(1)
    for name, value in before.items():
        np.testing.assert_array_equal(to_numpy(model.weights[name]), value)


def test_no_random_number_is_used_up_by_reading() -> None:
    module = perturbed(nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)))
    np.random.seed(7)
    model = from_torch(module)
    drawn = np.random.uniform()
    np.random.seed(7)
    assert np.random.uniform() == drawn
    np.random.seed(7)
    one = model.forward_pass(np.ones((4, 3)))
    assert not np.array_equal(one, model.forward_pass(np.ones((4, 3))))  # dropout draws on
    np.random.seed(7)
    np.testing.assert_array_equal(model.forward_pass(np.ones((4, 3))), one)


def test_one_layer_and_frozen_ones() -> None:
    layer = Dense(3, (2,), activation="tanh", rng=0)
    layer.initialize()
    layer.trainable = False
    module = to_torch(layer)
    assert [type(inner).__name__ for inner in module] == ["Linear", "Tanh"]
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not from_torch(module).layers[0].trainable
    inner = Sequential([Sequential([Dense(3)])], input_shape=(2,))
    inner.initialize()
    inner.layers[0].trainable = False
    assert not any(parameter.requires_grad for parameter in to_torch(inner).parameters())
    for module in (nn.LayerNorm(3, elementwise_affine=False), nn.BatchNorm1d(3, affine=False)):
        assert not from_torch(module).layers[0].trainable
    assert from_torch(nn.LayerNorm(3)).layers[0].trainable


def test_training_goes_on_alike() -> None:
    """Five steps of SGD in float64, batch normalization in training included: torch beside what was read from it."""
    module = perturbed(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, momentum=0.3), nn.Tanh(), nn.Linear(8, 1)))
    module = module.to(torch.float64).train()
    model = from_torch(module)
    X, y = RNG.normal(size=(32, 6)), RNG.normal(size=(32, 1))
    model.fit(X, y, epochs=5, batch_size=32, optimizer="sgd", loss="mean_squared_error", shuffle=False)
    optimizer = torch.optim.SGD(module.parameters(), lr=model.optimizer.learning_rate)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.mse_loss(module(torch.from_numpy(X)), torch.from_numpy(y)).backward()
        optimizer.step()
    for name, value in from_torch(module).weights.items():
        np.testing.assert_allclose(model.weights[name], value, rtol=1e-12, atol=1e-14, err_msg=name)


def test_softplus_beyond_its_threshold() -> None:
    """There torch returns x, which is off by log(1 + exp(-x)); what is written by to_torch has it further out."""
    X = np.linspace(20.5, 60, 80)[:, None]
    model = from_torch(nn.Sequential(nn.Softplus()).double(), backend="numpy")
    mine = model.layers[0].forward({}, X)[0]
    np.testing.assert_array_equal(predicted(nn.Softplus(), X), X)
    assert 0 < np.max(np.abs(mine - X)) < 2.1e-9
    model.set_input_shape((1,))
    layer = Softplus(input_shape=(1,), dtype="float64")
    layer.initialize()
    check(predicted(to_torch(layer), X), layer, X, "float64", {})


# ------------------------------------------------------------------ state dicts


def template(**kwargs: Any) -> Sequential:
    inner = Sequential([Dense(6, activation="gelu"), LayerNorm()])
    return Sequential([Dense(8), BatchNorm(), ReLU(), Dropout(0.1), inner, Dense(2)], **kwargs)


def test_a_state_dict_fills_a_copy_of_a_model(backend: Backend) -> None:
    module = perturbed(MODULES["network"]())
    state = module.state_dict()
    model = template()
    filled = from_torch(state, model, backend=backend)
    expected = from_torch(module, backend=backend)
    assert filled.backend == backend
    assert model.backend is None
    assert model.input_shape is None
    assert list(filled.weights) == list(expected.weights)
    for name, value in expected.weights.items():
        np.testing.assert_array_equal(to_numpy(filled.weights[name]), to_numpy(value), err_msg=name)
    # an initialized one: in its dtype, where it lives
    model = template(dtype="float64", input_shape=(13,), rng=0)
    model.initialize("adam")
    before = {name: value.copy() for name, value in model.weights.items()}
    filled = from_torch({name: value.numpy() for name, value in state.items()}, model)
    assert filled.dtype == "float64"
    for name, value in before.items():
        np.testing.assert_array_equal(model.weights[name], value)
        np.testing.assert_array_equal(filled.weights[name], to_numpy(expected.weights[name]))


def test_numbered_layers_are_put_in_order() -> None:
    """As text, 10 comes before 2: so are the names in a safetensors file."""
    module = perturbed(nn.Sequential(*[nn.Linear(2, 2) for _ in range(12)]))
    state = dict(sorted(module.state_dict().items()))
    assert list(state)[2] == "1.bias"
    assert list(state)[4] == "10.bias"
    filled = from_torch(state, Sequential([Dense(2) for _ in range(12)]))
    for name, value in from_torch(module).weights.items():
        np.testing.assert_array_equal(filled.weights[name], value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: (state.pop("last.weight"), state.pop("last.bias")), "weights for 4 layers .*model has 5"),
        (lambda state: state.pop("first.bias"), r"\['weight'\] at 'first', and dense \(Dense\) takes .*'bias'"),
        (lambda state: state.update({"first.scale": 1}), "they differ in .*scale"),
        (lambda state: state.update({"last.weight": np.ones((3, 6))}), "has shape"),
        (lambda state: state.clear(), "weights for 0 layers"),
    ],
)
def test_a_state_dict_that_does_not_fit(change: Any, message: str) -> None:
    state = dict(perturbed(MODULES["network"]()).state_dict())
    change(state)
    model = template()
    with pytest.raises(ValueError, match=message):
        from_torch(state, model)
    assert model.backend is None
    assert model.input_shape is None
    assert all(layer.input_shape is None for layer in model.layers)


# ------------------------------------------------------------------ what has no counterpart


class Custom(Layer):
    def init_params(self, rng: Any) -> Any:
        return {"scale": np.ones((1, *self.input_shape))}

    def forward(self, params: Any, X: Any, *, training: bool = False, noise: Any = None) -> Any:
        return X * params["scale"], X


class OwnForward(nn.Sequential):
    def forward(self, X: Any) -> Any:
        return -super().forward(X)


def frozen_bias() -> Any:
    layer = nn.Linear(3, 3)
    layer.bias.requires_grad_(False)
    return layer


SHARED = nn.Linear(3, 3)


@pytest.mark.parametrize(
    ("module", "kind", "message"),
    [
        (nn.Conv1d(3, 3, 1), TypeError, r"^Conv1d\(3, 3, .*state_dict"),
        (nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.PReLU())), TypeError, "PReLU.* at '0.1' has no counterpart"),
        (OwnForward(nn.Linear(3, 3)), TypeError, "^OwnForward has no counterpart"),
        (torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), TypeError, "ParametrizedLinear"),
        (nn.GELU(approximate="tanh"), ValueError, "GELU is the exact one"),
        (nn.Softplus(beta=2), ValueError, r"beta=1"),
        (nn.Softplus(threshold=5), ValueError, "not below 20"),
        (nn.Softmax(dim=0), ValueError, r"Softmax\(dim=-1\)"),
        (nn.LayerNorm((3, 3)), ValueError, "only the last axis"),
        (nn.BatchNorm1d(3, momentum=None), ValueError, "fixed momentum"),
        (nn.BatchNorm1d(3, track_running_stats=False), ValueError, "running averages"),
        (nn.Sequential(nn.Flatten(0)), ValueError, "Flatten.* at '0' has no"),
        (frozen_bias(), ValueError, "set requires_grad alike"),
        (nn.Sequential(SHARED, nn.ReLU(), SHARED), ValueError, r"\['2.weight', '2.bias'\] are weights that another"),
        (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3).double()), ValueError, r"float32, float64.*module\.float\(\)"),
        (nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 3)), ValueError, "what reaches it has"),
        ([1], TypeError, "this is a list"),
        ({"0.weight": np.ones((2, 2))}, TypeError, "says nothing of activations"),
    ],
)
def test_what_has_no_counterpart_here(module: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        from_torch(module)


def test_what_has_no_counterpart_in_torch() -> None:
    model = Sequential([Dense(3), Custom(name="mine")], input_shape=(2,))
    with pytest.raises(RuntimeError, match="not initialized"):
        to_torch(model)
    model.initialize()
    with pytest.raises(TypeError, match=r"^mine \(Custom\) has no counterpart in torch; .*export_onnx"):
        to_torch(model)
    state = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)).state_dict()
    with pytest.raises(TypeError, match="Custom has no counterpart in torch"):
        from_torch(state, model)
    with pytest.raises(TypeError, match="state_dict"):
        from_torch(nn.Linear(2, 3), model)


def test_a_shared_activation_is_no_shared_weight() -> None:
    act = nn.Tanh()
    model = from_torch(nn.Sequential(nn.Linear(3, 3), act, nn.Linear(3, 3), act))
    assert [type(layer.activation) for layer in model.layers] == [Tanh, Tanh]


def test_what_is_behind_another_layer_stays_a_layer() -> None:
    model = from_torch(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.1), nn.Sigmoid(), nn.Softmax(-1)))
    assert [type(layer) for layer in model.layers] == [Dense, Dropout, Sigmoid, Softmax]


def test_torch_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Linear(2, 3)
    layer = Dense(3, (2,))
    layer.initialize()
    monkeypatch.delitem(sys.modules, "torch.nn")
    monkeypatch.setitem(sys.modules, "torch", None)
    for call in (lambda: from_torch(module), lambda: to_torch(layer)):
        with pytest.raises(ImportError, match=r'this needs torch, .* pip install "dense-xp\[torch\]"'):
            call()


def hooked(nn: Any) -> Any:
    linear = nn.Linear(3, 2)
    linear.register_forward_hook(lambda module, inputs, output: 2 * output)
    return linear


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (hooked, r"it has hooks \(<lambda>\): remove them first"),
        (lambda nn: nn.utils.weight_norm(nn.Linear(3, 2)), "remove_weight_norm"),
        (lambda nn: nn.utils.spectral_norm(nn.Linear(3, 2)), "remove_spectral_norm"),
        (lambda nn: nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), "remove_parametrizations"),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_a_module_that_does_more_than_its_class_says_is_refused(make: Any, says: str, inside: bool) -> None:
    nn = pytest.importorskip("torch.nn")
    module = nn.Sequential(nn.Sequential(make(nn))) if inside else make(nn)
    with pytest.raises((TypeError, ValueError), match=says):
        from_torch(module)
    if inside:
        outer = nn.Sequential(nn.Linear(3, 2))
        outer.register_forward_pre_hook(lambda module, inputs: None)
        with pytest.raises(ValueError, match="it has hooks"):
            from_torch(outer)


def test_what_holds_no_numbers_or_has_a_forward_of_its_own() -> None:
    with pytest.raises(ValueError, match="on the device 'meta', which holds no numbers"):
        from_torch(nn.Sequential(nn.Linear(3, 4, device="meta")))
    module = nn.Sequential(nn.Linear(3, 4))
    module[0].forward = lambda X: X
    with pytest.raises(TypeError, match="its forward is a function of its own"):
        from_torch(module)
