"""To ONNX, the format of inference engines: a graph of the model's own mathematics.

No layer is implemented a second time. ``forward`` is a pure function in terms of the Array API standard, so it also
runs on ndonnx's symbolic arrays, which only record operations. The graph is therefore that of :meth:`Layer.forward`
itself, for every layer with a pure half, your own included.

Only one thing is removed from it: ndonnx guards some operators against empty arrays, each by an ``If`` with a branch of
a hundred nodes. Engines that fuse and place operators do not look into branches.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dense_xp.backend import to_numpy
from dense_xp.interop.building import imported
from dense_xp.interop.onnx_tables import decoded, encoded, input_kinds
from dense_xp.layers.activations import get_activation
from dense_xp.layers.contract import is_pure
from dense_xp.layers.layer import Layer
from dense_xp.support.files import write_atomically
from dense_xp.support.trees import unflatten
from dense_xp.tables.encoder import Encoder

_BATCH = "batch"
_GIVEN = "@"  # before the user's names while a graph is traced, so that they do not clash with its own

LIMIT = 2**31 - 1
"""The largest ONNX file, in bytes: the limit of Protocol Buffers."""


def export_onnx(
    model: Any,
    path: str | os.PathLike[str],
    *,
    activation: str | Layer | None = None,
    input_name: str = "X",
    output_name: str = "Y",
    dtype: str | None = None,
    metadata: Mapping[str, str] | None = None,
    table: Encoder | None = None,
    missing: Sequence[str] = (),
) -> None:
    """Write what a model computes outside of training into one ONNX file.

    The graph has one input of shape (batch, n_features) and one output of shape (batch, n_outputs), with any
    number of rows; its weights are initializers under their names in :attr:`Layer.weights`. It is of opset 21
    and IR version 10, checked by ``onnx.checker``, and names this package and the model's class in its metadata.

    Parameters
    ----------
    model : Layer or estimator
        An initialized model, a single layer, or a fitted :class:`~dense_xp.estimators.DenseClassifier` or
        :class:`~dense_xp.estimators.DenseRegressor`; of a regressor the output is of float64, in the units of y.
    path : path-like
        Where to; an existing file is replaced atomically.
    activation : str or Layer, optional
        Applied to the output: ``"softmax"`` where the model returns logits and the engine is to return
        probabilities.
    input_name, output_name : str
        What they are called in the graph.
    dtype : str, optional
        ``"float16"``, ``"float32"`` or ``"float64"``; by default that of the model. ONNX files of bfloat16
        are not written: export them as float32, which holds all their values.
    metadata : mapping of str to str, optional
        Further metadata, besides class and name of the model.
    table : Encoder, optional
        The encoder between a table and the model. The graph then has one input of shape (batch, 1) for each column that
        is used, under its name: numbers as float64, texts, yes and no as strings, dates as days since 1970 in float64.
        Its outputs are the class of each row as a string, shape (batch,), and ``probabilities``, or the number in its
        unit, shape (batch, 1).
    missing : sequence of str
        With a table: which values, besides NaN and the empty text, stand for a missing one.

    Raises
    ------
    ImportError
        If onnx or ndonnx is not installed.
    RuntimeError
        If the model is not initialized, or a layer does not know its input shape.
    TypeError
        If a layer has only the stateful methods, or its ``forward`` does not run on arrays of another library.
    ValueError
        If a name or the dtype cannot be used, the table is that of another model, or the file would be too large.
        Nothing is written.

    References
    ----------
    .. [1] ONNX, "Operator schemas" and "Intermediate representation", https://onnx.ai/onnx/

    Examples
    --------
    >>> import tempfile, onnx
    >>> from dense_xp import Dense
    >>> layer = Dense(3, (2,), activation="tanh", rng=0)
    >>> layer.initialize()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_onnx(layer, f"{folder}/layer.onnx")
    ...     graph = onnx.load(f"{folder}/layer.onnx").graph
    >>> [node.op_type for node in graph.node]
    ['MatMul', 'Add', 'Tanh']
    >>> [initializer.name for initializer in graph.initializer]
    ['W', 'w0']
    """
    units = [getattr(model, name, None) for name in ("y_scale_", "y_mean_")]
    model = getattr(model, "network_", model)
    model.built()
    if not is_pure(model):
        raise TypeError(
            f"{_impure(model).layer_name()} has only the stateful methods, and an ONNX graph is made from the pure "
            "half: write forward(params, X) in its place"
        )
    with warnings.catch_warnings():  # that an engine is missing, which tracing does not need
        warnings.filterwarnings("ignore", "onnxruntime is not installed")
        xp, onnx = imported("ndonnx", "onnx"), imported("onnx", "onnx")
    dtype = dtype or model.dtype
    if dtype not in ("float16", "float32", "float64"):
        raise ValueError(f"ONNX files are written in float16, float32 or float64, and not in {dtype}: pass dtype=...")
    host = {name: to_numpy(value) for name, value in model.weights.items()}
    weights = {name: value if value.dtype.kind == "i" else value.astype(dtype) for name, value in host.items()}
    # JAX outside its 64-bit mode has indices of 32 bits, which ndonnx does not take
    weights |= {name: value.astype("int64") for name, value in weights.items() if value.dtype == np.int32}
    if sum(value.nbytes for value in weights.values()) > LIMIT:
        raise ValueError("an ONNX file holds at most 2 GiB, and the weights have more; a smaller dtype may fit")
    shape = model.known_input_shape()
    if table is not None and shape != (len(table.features),):
        raise ValueError(f"the table has {len(table.features)} features, and the model takes rows of shape {shape}")
    if table is not None and activation is not None:
        raise ValueError("the output of a table's model is made its target's: leave out activation")
    kinds = {input_name: dtype} if table is None else input_kinds(table)
    shape = shape if table is None else (1,)
    inputs = {name: xp.argument(shape=(_BATCH, *shape), dtype=getattr(xp, kind)) for name, kind in kinds.items()}
    X = inputs[input_name] if table is None else encoded(xp, table, inputs, missing)
    symbols = {n: xp.argument(shape=value.shape, dtype=getattr(xp, value.dtype.name)) for n, value in weights.items()}
    final = get_activation(activation)
    try:
        Y = model.forward(unflatten(symbols), xp.astype(X, getattr(xp, dtype), copy=False))[0]
        Y = Y if final is None else final.forward({}, Y)[0]
        if units[0] is not None:
            Y = xp.astype(Y, xp.float64) * xp.asarray(np.asarray(units[0])) + xp.asarray(np.asarray(units[1]))
        outputs = {output_name: Y} if table is None else decoded(xp, table, Y)
        names = [*inputs, *outputs, *weights]
        if len(set(names)) == len(names):
            traced = xp.build(
                {**{_GIVEN + name: value for name, value in inputs.items()}, **symbols},
                {_GIVEN + name: value for name, value in outputs.items()},
            )
    except Exception as error:
        raise TypeError(
            f"the forward of {model.layer_name()} cannot be traced ({type(error).__name__}: {error}): "
            "use the functions of array_api_compat.array_namespace(X), and no value of X, in each of its layers"
        ) from error
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"input, output and weights share a name: {twice}")
    shapes = {n: (_BATCH, *(model.output_shape() if value.ndim > 1 else ())) for n, value in outputs.items()}
    proto = _proto(onnx, traced, weights, shapes)
    about = {"class": type(model).__name__, "name": model.layer_name(), **(metadata or {})}
    onnx.helper.set_model_props(proto, about)
    onnx.checker.check_model(proto, full_check=True)
    write_atomically(path, proto.SerializeToString())


def _impure(model: Layer) -> Layer:
    """Return the innermost layer that has no pure half."""
    inner = [layer for layer in model.children.values() if not is_pure(layer)]
    return _impure(inner[0]) if inner else model


def _proto(onnx: Any, traced: Any, weights: dict[str, np.ndarray[Any, Any]], shapes: dict[str, Any]) -> Any:
    """Return the file of a traced model: its graph and its versions."""
    from dense_xp import __version__

    graph = _graph(onnx, traced.graph, weights)
    for output in graph.output:
        kind = output.type.tensor_type.elem_type
        output.CopyFrom(onnx.helper.make_tensor_value_info(output.name, kind, shapes[output.name]))
    domains = {node.domain for node in graph.node}
    return onnx.helper.make_model(
        graph,
        opset_imports=[entry for entry in traced.opset_import if entry.domain in domains],
        ir_version=traced.ir_version,
        producer_name="dense_xp",
        producer_version=__version__,
    )


def _graph(onnx: Any, traced: Any, weights: dict[str, np.ndarray[Any, Any]]) -> Any:
    """Return the graph with its weights, and without guards, identities and unused nodes."""
    inputs = [value for value in traced.input if value.name not in weights]
    outputs = [value.name for value in traced.output]
    names = {name: name.removeprefix(_GIVEN) for name in [*outputs, *(value.name for value in inputs)]}
    for value in (*inputs, *traced.output):
        value.name = names[value.name]
    taken = {*names.values(), *weights}
    detours: dict[str, str] = {}
    nodes: list[Any] = []
    for node in _unguarded(onnx, traced.node):
        node.input[:] = [detours.get(name, name) for name in node.input]
        if node.op_type == "Identity":
            detours[node.output[0]] = node.input[0]
        else:
            nodes.append(node)
    needed = {detours.get(name, name) for name in outputs}
    kept: list[Any] = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    kept.reverse()
    made = {name for node in kept for name in node.output}
    for output in outputs:
        result = detours.get(output, output)
        if result not in made or names.setdefault(result, names[output]) != names[output]:
            # a model that does nothing outside of training, or the same twice
            kept.append(onnx.helper.make_node("Identity", [result], [output]))
    for i, node in enumerate(kept):
        node.name = f"{node.op_type}_{i}"
        while node.name in taken:
            node.name += "_"
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [
            names.setdefault(name, f"{node.name}_{j}" if j else node.name) for j, name in enumerate(node.output)
        ]
    initializers = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    return onnx.helper.make_graph(kept, "dense_xp", inputs, traced.output, initializers)


def _unguarded(onnx: Any, nodes: Any, kinds: dict[str, str] | None = None) -> Iterator[Any]:
    """Yield nodes, and in the place of each ``If`` those of the branch for arrays that are not empty.

    ndonnx writes an ``If`` only to compare sizes with zero. A traced function has no others, as it cannot branch on
    unknown values.
    """
    kinds = {} if kinds is None else kinds
    for node in nodes:
        kinds |= dict.fromkeys(node.output, node.op_type)
        if node.op_type != "If":
            yield node
            continue
        if kinds.get(node.input[0]) != "Equal":
            raise RuntimeError("this version of ndonnx writes conditions that are not known here: install ndonnx 0.23")
        branch = next(attribute.g for attribute in node.attribute if attribute.name == "else_branch")
        yield from _unguarded(onnx, branch.node, kinds)
        for inner, outer in zip(branch.output, node.output, strict=True):
            yield onnx.helper.make_node("Identity", [inner.name], [outer])
