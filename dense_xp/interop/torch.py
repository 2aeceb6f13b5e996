"""Models from PyTorch and back: the same bits in the weights, or an error that names the layer.

What differs is small. torch keeps a weight as (out, in), here it is (in, out); an activation is a module of its
own, here the layer before it may own it. Epsilon, momentum and the unbiased running variance of batch
normalization mean the same in both.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dense_xp.backend import Backend, get_backend, to_numpy
from dense_xp.interop.building import Part, assembled, build, finished, imported
from dense_xp.layers.activations import ELU, GELU, SELU, LeakyReLU, Mish, ReLU, Sigmoid, SiLU, Softmax, Softplus, Tanh
from dense_xp.layers.contract import Contract
from dense_xp.layers.dense import Dense
from dense_xp.layers.dropout import Dropout
from dense_xp.layers.layer import Layer
from dense_xp.layers.normalization import BatchNorm, LayerNorm
from dense_xp.support.trees import Params, unflatten
from dense_xp.training.sequential import Sequential

_DENSE = {"weight": "W", "bias": "w0"}
_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_variance"}
_WITH_WEIGHTS = (Dense, LayerNorm, BatchNorm)
_COUNTER = "num_batches_tracked"  # torch's, for a cumulative average, which does not exist here

_ALIKE = {kind.__name__: kind for kind in (ReLU, SELU, SiLU, Mish, Tanh, Sigmoid)}  # without settings, in both

_LINEAR_FROM = 40.0  # where softplus is the identity to every precision; torch's own default, 20, is for float32


def from_torch(module: Any, model: Sequential | None = None, *, backend: Any = None) -> Sequential:
    """Make a model of a ``torch.nn.Sequential``, or of a state dict and a model that it fits.

    Supported are Sequential (also nested), Linear, LayerNorm over the last axis, BatchNorm1d, Dropout,
    ReLU, LeakyReLU, ELU, GELU (the exact one), SELU, SiLU, Mish, Tanh, Sigmoid, Softplus and Softmax. Identity and
    Flatten are left out, as rows are flat. A Linear and the activation right behind it become one :class:`Dense`. What
    requires no gradient is not trainable; a normalization without weight and bias gets 1 and 0, not trainable.

    Parameters
    ----------
    module : torch.nn.Module or mapping of str to array
        A module; or a state dict, with arrays of any library.
    model : Sequential, optional
        For a state dict, which says nothing of activations: a model of the layers that its weights are for,
        in the order of the state dict. It is copied, and not changed.
    backend : str or module or Backend, optional
        Where the new model lives; by default where `model` does, or the setting in force.

    Returns
    -------
    Sequential
        Initialized and without an optimizer; in the dtype of the module, or of `model`.

    Raises
    ------
    ImportError
        If torch is not installed.
    TypeError, ValueError
        If there is something without a counterpart here, or the weights do not fit the model.

    Examples
    --------
    >>> from torch import nn
    >>> from_torch(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)))
    Sequential([
        Dense(n_units=3, activation='relu', input_shape=(4,)),
        Dense(n_units=1, input_shape=(3,)),
    ], input_shape=(4,), dtype='float32')
    """
    if isinstance(module, Mapping):
        if model is None:
            raise TypeError("a state dict says nothing of activations: pass the model that its weights are for, too")
        return _filled(model, module, backend)
    if model is not None:
        raise TypeError("a module makes a model of its own; with a model, pass its module.state_dict()")
    nn = imported("torch.nn", "torch")
    if not isinstance(module, nn.Module):
        raise TypeError(f"from_torch takes a torch.nn.Module or a state dict, and this is a {type(module).__name__}")
    if away := [name for name, array in module.state_dict().items() if array.is_meta]:
        raise ValueError(f"{away} are on the device 'meta', which holds no numbers: load the weights first")
    parts = _parts(nn, module, "")
    named = list(module.named_parameters(remove_duplicate=False))
    if shared := [name for i, (name, own) in enumerate(named) if any(own is other for _, other in named[:i])]:
        raise ValueError(f"{shared} are weights that another layer has, too, and here each layer has its own")
    arrays = [*module.parameters(), *(buffer for buffer in module.buffers() if buffer.is_floating_point())]
    dtypes = sorted({str(array.dtype).removeprefix("torch.") for array in arrays}) or ["float32"]
    if len(dtypes) > 1:
        raise ValueError(f"the module has several dtypes, {', '.join(dtypes)}, and a model has one: module.float()")
    return finished(parts, dtype=dtypes[0], backend=backend)


# ------------------------------------------------------------------------------------- modules


def _parts(nn: Any, module: Any, path: str) -> list[Part]:
    """Return the layers of a module, and the weights of each."""
    _check_hooks(module, path)
    if not _is_chain(nn, module) and type(module) not in (nn.Identity, nn.Flatten):
        return [_part(nn, module, path)]
    parts: list[Part] = []
    if type(module) is nn.Flatten and (module.start_dim, module.end_dim) != (1, -1):
        raise _refusal(module, path, "only Flatten() does nothing to a row")
    for key, inner in module._modules.items():  # children() would leave out a module that occurs twice
        here = f"{path}.{key}" if path else key
        if _is_chain(nn, inner):
            parts.append(assembled(_parts(nn, inner, here)))
        else:
            parts += _parts(nn, inner, here)
    return parts


def _check_hooks(module: Any, path: str) -> None:
    """Refuse a module that does more than its class says."""
    if hasattr(module, "parametrizations"):
        names = ", ".join(module.parametrizations)
        raise _refusal(
            module,
            path,
            f"its {names} is computed: torch.nn.utils.parametrize.remove_parametrizations first",
            TypeError,
        )
    if "forward" in vars(module):
        raise _refusal(module, path, "its forward is a function of its own: write it as a subclass of Layer", TypeError)
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    hooks = [hook for kind in kinds for hook in getattr(module, kind, {}).values()]
    if hooks:
        names = ", ".join(getattr(hook, "__name__", type(hook).__name__) for hook in hooks)
        raise _refusal(
            module,
            path,
            f"it has hooks ({names}): remove them first, with the handle's remove(), or with "
            "torch.nn.utils.remove_weight_norm or remove_spectral_norm",
        )


def _is_chain(nn: Any, module: Any) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _part(nn: Any, module: Any, path: str) -> Part:
    kind = type(module).__name__
    if kind not in _READERS or type(module) is not getattr(nn, kind):
        known = ", ".join(["Sequential", *_READERS, "Identity", "Flatten"])
        raise _refusal(
            module,
            path,
            f"known are {known}; a module with a forward of its own comes across by its weights: "
            "from_torch(module.state_dict(), model)",
            TypeError,
        )
    layer = _READERS[kind](module, path)
    if type(layer) not in _WITH_WEIGHTS:
        return layer, {}
    flags = {parameter.requires_grad for parameter in module.parameters()}
    if len(flags) > 1:
        raise _refusal(module, path, "a layer learns as a whole or not at all: set requires_grad alike for its weights")
    layer.trainable = flags == {True}
    state = module.state_dict()
    if unknown := sorted(set(state) - {*(_DENSE if type(layer) is Dense else _NORM), _COUNTER}):
        raise _refusal(module, path, f"it has more weights than its class: {', '.join(unknown)}")
    return layer, _params(layer, state)


def _params(layer: Layer, state: Mapping[str, Any]) -> Params:
    """Return the weights of one layer, from under torch's names and in its shapes."""
    names = _DENSE if type(layer) is Dense else _NORM
    host = {names[name]: to_numpy(value) for name, value in state.items() if name != _COUNTER}
    return {name: value.T if name == "W" else value.reshape(1, -1) for name, value in host.items()}


def _linear(module: Any, path: str) -> Layer:
    return Dense(module.out_features, (module.in_features,), use_bias=module.bias is not None)


def _layer_norm(module: Any, path: str) -> Layer:
    if len(module.normalized_shape) != 1:
        raise _refusal(module, path, "only the last axis can be normalized")
    return LayerNorm(epsilon=module.eps, input_shape=tuple(module.normalized_shape))


def _batch_norm(module: Any, path: str) -> Layer:
    if module.running_mean is None or module.momentum is None:
        raise _refusal(module, path, "BatchNorm has running averages, with a fixed momentum: BatchNorm1d(n)")
    return BatchNorm(momentum=module.momentum, epsilon=module.eps, input_shape=(module.num_features,))


def _gelu(module: Any, path: str) -> Layer:
    if module.approximate != "none":
        raise _refusal(module, path, "GELU is the exact one here: GELU(approximate='none') differs by less than 5e-4")
    return GELU()


def _softplus(module: Any, path: str) -> Layer:
    if module.beta != 1 or module.threshold < 20:
        raise _refusal(module, path, "softplus is log(1 + exp(x)) here: beta=1, and the identity not below 20")
    return Softplus()


def _softmax(module: Any, path: str) -> Layer:
    if module.dim not in (-1, 1):
        raise _refusal(module, path, "softmax is along the last axis here: Softmax(dim=-1)")
    return Softmax()


_READERS: dict[str, Callable[[Any, str], Layer]] = {
    "Linear": _linear,
    "LayerNorm": _layer_norm,
    "BatchNorm1d": _batch_norm,
    "Dropout": lambda module, path: Dropout(float(module.p)),
    **{name: lambda module, path: _ALIKE[type(module).__name__]() for name in _ALIKE},
    "LeakyReLU": lambda module, path: LeakyReLU(module.negative_slope),
    "ELU": lambda module, path: ELU(module.alpha),
    "GELU": _gelu,
    "Softplus": _softplus,
    "Softmax": _softmax,
}


def _refusal(module: Any, path: str, why: str, kind: type[Exception] = ValueError) -> Exception:
    what = type(module).__name__ if module._modules else repr(module)
    return kind(f"{what}{f' at {path!r}' if path else ''} has no counterpart here: {why}")


# ------------------------------------------------------------------------------------- state dicts


def _filled(model: Sequential, state: Mapping[str, Any], backend: Any) -> Sequential:
    """Return a copy of a model with the weights of a state dict."""
    groups: dict[str, dict[str, Any]] = {}
    for key, value in state.items():
        path, _, name = key.rpartition(".")
        groups.setdefault(path, {})[name] = value
    if all(path.replace(".", "").isdigit() for path in groups):
        # files sort names as text, "10" before "2"; those of a Sequential are numbers, which give the order
        groups = dict(sorted(groups.items(), key=lambda item: [int(step) for step in item[0].split(".")]))
    filled = copy.deepcopy(model)
    takers = list(_with_weights(filled))
    if not groups or len(takers) != len(groups):
        raise ValueError(
            f"the state dict has weights for {len(groups)} layers ({', '.join(groups)}), and the model has "
            f"{len(takers)} that take some ({', '.join(name for name, _ in takers)})"
        )
    weights: Params = {}
    for (name, layer), (path, own) in zip(takers, groups.items(), strict=True):
        wanted = _wanted(layer)
        if found := set(own) - {_COUNTER} ^ wanted:
            raise ValueError(
                f"the state dict has {sorted(own)} at {path!r}, and {name} ({type(layer).__name__}) takes "
                f"{sorted(wanted)}: they differ in {sorted(found)}"
            )
        weights |= {f"{name}.{key}": value for key, value in _params(layer, own).items()}
    if backend is not None:
        filled.to(backend)
    if filled.backend is None:
        if filled.input_shape is None and filled.layers[0].input_shape is None:
            name, first = takers[0]
            n_in = weights[f"{name}.W"].shape[0] if type(first) is Dense else weights[f"{name}.gamma"].shape[1]
            filled.set_input_shape((n_in,))
        build(filled, unflatten(weights))
    else:
        filled.set_weights(weights)
    return filled


def _with_weights(model: Sequential, prefix: str = "") -> Iterator[tuple[str, Layer]]:
    for key, layer in model.children.items():
        if isinstance(layer, Sequential):
            yield from _with_weights(layer, f"{prefix}{key}.")
        elif type(layer).init_params is not Contract.init_params:
            yield prefix + key, layer


def _wanted(layer: Layer) -> set[str]:
    """Return what torch calls the weights of a layer."""
    if type(layer) is Dense:
        return set(_DENSE) if layer.use_bias else {"weight"}
    if type(layer) not in (LayerNorm, BatchNorm):
        raise TypeError(
            f"{type(layer).__name__} has no counterpart in torch: set its weights by hand, with set_weights"
        )
    return {"weight", "bias"} if type(layer) is LayerNorm else set(_NORM)


# ------------------------------------------------------------------------------------- back


def to_torch(model: Layer) -> Any:
    """Make a ``torch.nn.Sequential`` that predicts what the model predicts.

    Parameters
    ----------
    model : Layer
        An initialized model of the package's own layers.

    Returns
    -------
    torch.nn.Sequential
        With copies of the weights; on the model's device if that is one of torch, else on the CPU; in
        evaluation mode, so that dropout is off (``.train()`` turns it on). A Dense with an activation becomes
        two modules. What is not trainable requires no gradient.

    Raises
    ------
    ImportError
        If torch is not installed.
    RuntimeError
        If the model is not initialized.
    TypeError
        If a layer has no counterpart in torch.

    Examples
    --------
    >>> layer = Dense(3, (2,), activation="relu", rng=0)
    >>> layer.initialize()
    >>> to_torch(layer)
    Sequential(
      (0): Linear(in_features=2, out_features=3, bias=True)
      (1): ReLU()
    )
    """
    home = model.built()
    nn = imported("torch.nn", "torch")
    target = home if home.name == "torch" else get_backend("torch")
    modules = _modules(nn, model, target, True)
    return (modules[0] if isinstance(model, Sequential) else nn.Sequential(*modules)).eval()


def _modules(nn: Any, layer: Layer, target: Backend, trainable: bool) -> list[Any]:
    """Return the modules that do what a layer does, one after the other."""
    trainable = trainable and layer.trainable
    if isinstance(layer, Sequential) and type(layer).forward is Sequential.forward:
        inner = (_modules(nn, item, target, trainable) for item in layer.layers)
        return [nn.Sequential(*itertools.chain.from_iterable(inner))]
    if type(layer) not in _WRITERS:
        raise TypeError(
            f"{layer.layer_name()} ({type(layer).__name__}) has no counterpart in torch; known are "
            f"{', '.join(kind.__name__ for kind in _WRITERS)}. dense_xp.interop.export_onnx takes any pure layer"
        )
    module = _WRITERS[type(layer)](nn, layer).to(target.device, target.dtype(layer.dtype))
    names = {own: name for name, own in (_DENSE if type(layer) is Dense else _NORM).items()}
    state = module.state_dict()
    for own, value in layer.params.items():
        value = target.asarray(value, layer.dtype)
        state[names[own]] = value.T if own == "W" else value[0, :]
    module.load_state_dict(state)
    for parameter in module.parameters():
        parameter.requires_grad_(trainable)
    activation = getattr(layer, "activation", None)
    return [module, *(_modules(nn, activation, target, trainable) if activation is not None else ())]


_WRITERS: dict[type[Layer], Callable[[Any, Any], Any]] = {
    # no weights are drawn only to be replaced: that would advance torch's random state
    Dense: lambda nn, layer: nn.utils.skip_init(
        nn.Linear, *layer.known_input_shape(), layer.n_units, bias=layer.use_bias
    ),
    LayerNorm: lambda nn, layer: nn.LayerNorm(layer.known_input_shape(), eps=layer.epsilon),
    BatchNorm: lambda nn, layer: nn.BatchNorm1d(*layer.known_input_shape(), eps=layer.epsilon, momentum=layer.momentum),
    Dropout: lambda nn, layer: nn.Dropout(layer.rate),
    **{kind: lambda nn, layer: getattr(nn, type(layer).__name__)() for kind in _ALIKE.values()},
    LeakyReLU: lambda nn, layer: nn.LeakyReLU(layer.negative_slope),
    ELU: lambda nn, layer: nn.ELU(layer.alpha),
    GELU: lambda nn, layer: nn.GELU(),
    Softplus: lambda nn, layer: nn.Softplus(threshold=_LINEAR_FROM),
    Softmax: lambda nn, layer: nn.Softmax(dim=-1),
}
