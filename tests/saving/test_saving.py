"""Models on disk: the same bits, on any machine, and one clear error for every file that is not one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import dense_xp
from dense_xp import (
    SGD,
    Adam,
    BatchNorm,
    CosineSchedule,
    Dense,
    Dropout,
    History,
    Layer,
    LayerNorm,
    RMSprop,
    Sequential,
    UnknownBackendError,
    WarmUp,
    describe,
    load,
    save,
    to_numpy,
)
from dense_xp.backend import Backend
from dense_xp.saving import ModelFileError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6)).astype("float32")
LABELS = RNG.integers(0, 3, size=40)


def network(backend: Any = "numpy", **kwargs: Any) -> Sequential:
    return Sequential(
        [
            LayerNorm(),
            Dense(8, activation="gelu", kernel_initializer="he_normal"),
            Sequential([BatchNorm(), Dense(5, use_bias=False), Dropout(0.2)]),
            Dense(3),
        ],
        input_shape=(6,),
        backend=backend,
        rng=0,
        **kwargs,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def same(one: Layer, two: Layer) -> None:
    assert set(one.weights) == set(two.weights)
    for name, value in one.weights.items():
        np.testing.assert_array_equal(to_numpy(value), to_numpy(two.weights[name]), err_msg=name)


def test_a_model_comes_back_on_another_backend(backend: Backend, path: Path) -> None:
    model = network(backend)
    model.fit(X, LABELS, 2, 8)
    save(model, path)
    for where in (backend, "numpy"):
        loaded = load(path, where)
        same(model, loaded)
        assert loaded.get_config() == {**model.get_config(), "backend": loaded.get_config()["backend"]}
    np.testing.assert_allclose(load(path, "numpy").predict(X), model.predict(X), atol=1e-4)
    assert load(path).backend.name == "numpy"
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    "optimizer", [Adam(WarmUp(CosineSchedule(0.01, 40), 5)), SGD(0.1, momentum=0.9, clip_norm=1.0), SGD(0.1), RMSprop()]
)
def test_a_training_goes_on_to_the_same_bits(backend: Backend, path: Path, optimizer: Any) -> None:
    through, first = network(backend), network(backend)
    through.fit(X, LABELS, 3, 16, optimizer=optimizer)
    through.fit(X, LABELS, 4, 16)
    history = first.fit(X, LABELS, 3, 16, optimizer=optimizer)
    save(first, path, training=True, history=history)
    np.random.seed(5)
    before = np.random.get_state()[1]  # type: ignore[index]
    resumed = load(path, backend)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index]
    assert resumed.optimizer == optimizer
    assert resumed.steps == first.steps == 9
    resumed.fit(X, LABELS, 4, 16)
    same(through, resumed)
    found = describe(path)
    assert found["history"] == history
    assert found["steps"] == 9
    assert found["shapes"]["dense.W"] == (6, 8)


def test_one_layer_frozen_layers_and_other_precisions(path: Path) -> None:
    layer = Dense(3, (2,), dtype="float16", rng=0)
    layer.initialize()
    layer.W = np.asfortranarray(RNG.normal(size=(2, 3)))
    save(layer, path)
    assert load(path).W.dtype == np.float16
    same(layer, load(path))
    model = network(dtype="float64")
    model.layers[1].trainable = False
    model.initialize("adam")
    save(model, path, training=True)
    loaded = load(path)
    assert not loaded.layers[1].trainable
    assert loaded.optimizer == Adam()
    same(model, loaded)


def test_bfloat16_keeps_its_bits(path: Path) -> None:
    pytest.importorskip("torch")
    layer = Dense(30, (20,), dtype="bfloat16", backend="torch", rng=0)
    layer.initialize()
    save(layer, path)
    loaded = load(path, "torch")
    assert loaded.dtype == "bfloat16"
    same(layer, loaded)


class Own(Layer):
    def forward(self, params: Any, X: Any, **kwargs: Any) -> Any:
        return X, None


def test_a_class_of_ones_own_must_be_passed(path: Path) -> None:
    model = Sequential([Own(), Dense(2)], input_shape=(3,), rng=0)
    model.initialize()
    save(model, path)
    with pytest.raises(ModelFileError, match=r"unknown layer class 'Own'; .* custom=\[...\]"):
        load(path)
    assert type(load(path, custom=[Own]).layers[0]) is Own


def test_what_cannot_be_saved(path: Path) -> None:
    with pytest.raises(RuntimeError, match="not initialized"):
        save(Dense(3, (2,)), path)
    layer = Dense(3, (2,), kernel_initializer=lambda shape, rng: np.ones(shape))
    layer.initialize()
    with pytest.raises(ValueError, match=r"cannot be saved: .*must be the package's own"):
        save(layer, path)

    class Mine:
        def update(self, weights: Any, grad: Any) -> Any:
            return weights

    layer = Dense(3, (2,))
    layer.initialize(Mine())
    with pytest.raises(ValueError, match=r"cannot be saved: .*ForeignOptimizer.*must be the package's own"):
        save(layer, path, training=True)
    assert os.listdir(path.parent) == []


def test_an_interrupted_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Dense(3, (2,), rng=0)
    layer.initialize()
    save(layer, path)
    before = path.read_bytes()

    def full(file: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        save(layer, path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def rewritten(path: Path, change: Any, arrays: Any = None) -> None:
    """Change the metadata of a saved network, and perhaps its arrays."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        about = json.loads(file.metadata()["dense_xp"])
    change(about)
    host = load_file(path)
    if arrays is not None:
        arrays(host)
    save_file(host, path, {"dense_xp": json.dumps(about)})


@pytest.mark.parametrize(
    ("change", "arrays", "message"),
    [
        (lambda about: about.update(format=2), None, "has format 2, and this version of dense_xp reads 1"),
        (lambda about: about.pop("class"), None, "no 'class'"),
        (lambda about: about.update({"class": "os.system"}), None, "unknown layer class 'os.system'"),
        (lambda about: about["config"].update(layers=3), None, "layers must be a list, and is 3"),
        (lambda about: about["config"].update(rogue=3), None, "has no setting 'rogue'"),
        (lambda about: about["config"]["layers"].pop(), None, r"missing \[\], unknown \['dense_1.W', 'dense_1.w0'\]"),
        (lambda about: about["config"].update(input_shape=[7]), None, "what reaches it has"),
        (lambda about: about["optimizer"].update({"class": "Popen"}), None, "unknown optimizer or schedule 'Popen'"),
        (lambda about: about["optimizer"].update(learning_rate=-1), None, "learning_rate must be a number"),
        (lambda about: about.update(steps=-1), None, "its number of steps is -1"),
        (lambda about: about.update(random={"bit_generator": "Rogue"}), None, "random state is that of 'Rogue'"),
        (lambda about: about.update(random={"bit_generator": "PCG64"}), None, "does not fit together"),
        (lambda about: None, lambda host: host.pop("weight:dense.W"), r"missing \['dense.W'\]"),
        (lambda about: None, lambda host: host.pop("weight:dense.w0"), r"missing \['dense.w0'\], unknown \[\]"),
        (lambda about: None, lambda host: host.pop("optimizer:dense.W.mean"), r"missing \['dense.W.mean'\]"),
        (lambda about: None, lambda host: host.update(extra=np.ones(1)), "holds 'extra' of dtype float64"),
        (
            lambda about: None,
            lambda host: host.update({"weight:dense.w0": np.ones((1, 9), "float32")}),
            r"'dense.w0' has shape \(1, 9\), and the layer needs \(1, 8\)",
        ),
        (
            lambda about: None,
            lambda host: host.update({"weight:dense.w0": np.ones((1, 8), "int16")}),
            "holds 'weight:dense.w0' of dtype int16",
        ),
    ],
)
def test_files_that_do_not_fit_together(path: Path, change: Any, arrays: Any, message: str) -> None:
    model = network()
    model.initialize("adam")
    save(model, path, training=True)
    rewritten(path, change, arrays)
    with pytest.raises(ModelFileError, match=message):
        load(path)


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ([], "must be a mapping"),
        ({"rogue": 1}, "unexpected keyword argument 'rogue'"),
        ({"metrics": []}, "not made of columns"),
        ({"metrics": {"loss": 3}}, "not made of columns"),
        ({"metrics": {"loss": ["low"]}}, "not made of numbers"),
        ({"metrics": {"loss": [1.0]}, "seconds": "long"}, "not made of numbers"),
        ({"metrics": {"loss": [1.0]}, "best_epoch": 2}, "its best epoch is 2, of 1"),
    ],
)
def test_a_history_that_is_none(path: Path, history: Any, message: str) -> None:
    model = network()
    model.initialize()
    save(model, path, history=History({"loss": [2.0, 1.0]}, best_epoch=2))
    assert describe(path)["history"].best_epoch == 2
    rewritten(path, lambda about: about.update(history=history))
    with pytest.raises(ModelFileError, match=message):
        describe(path)
    load(path)  # which does not look at it


def test_what_else_belongs_to_a_model(path: Path) -> None:
    model = network()
    model.initialize()
    extra = {"classes": ["no", "yes"], "scale": 0.1, "more": {"none": None, "flags": [True, 3]}}
    save(model, path, extra=extra)
    assert describe(path)["extra"] == extra
    same(model, load(path))
    save(model, path)
    assert "extra" not in describe(path)


@pytest.mark.parametrize(
    "extra", [{"a": np.ones(2)}, {"a": (1, 2)}, {1: "a"}, ["a"], {"a": float("nan")}, {"a": {1, 2}}], ids=str
)
def test_extra_values_that_are_not_plain(path: Path, extra: Any) -> None:
    model = network()
    model.initialize()
    with pytest.raises(ValueError, match="extra cannot be saved"):
        save(model, path, extra=extra)
    assert not path.exists()


def test_extra_values_that_are_none(path: Path) -> None:
    model = network()
    model.initialize()
    save(model, path, extra={"a": 1})
    rewritten(path, lambda about: about.update(extra=[1]))
    with pytest.raises(ModelFileError, match=r"its extra values are \[1\]"):
        describe(path)
    load(path)


@pytest.mark.parametrize(
    ("layer", "change"),
    [
        (Dense(3, (2,)), {"n_units": 10**12}),
        (Dense(3, (2,)), {"input_shape": [10**12]}),
        (LayerNorm(input_shape=(3,)), {"input_shape": [10**12]}),
    ],
    ids=repr,
)
def test_nothing_is_made_that_is_larger_than_its_file(path: Path, layer: Layer, change: dict[str, Any]) -> None:
    layer.initialize()
    save(layer, path)
    rewritten(path, lambda about: about["config"].update(change))
    with pytest.raises(ModelFileError, match=r"has shape .*, and the layer needs .*1000000000000"):
        load(path)


def test_files_that_are_no_models(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=path.name):
        load(path)
    path.write_bytes(b"")
    with pytest.raises(ModelFileError, match="no model, or is damaged"):
        load(path)
    save_file({"a": np.ones(2)}, path)
    with pytest.raises(ModelFileError, match=r"not one that dense_xp\.save wrote"):
        describe(path)
    save_file({"a": np.ones(2)}, path, {"dense_xp": "[" * 100_000})
    with pytest.raises(ModelFileError, match="no model, or is damaged"):
        describe(path)
    model = network()
    model.initialize()
    save(model, path, history=History())
    whole = path.read_bytes()
    for size in (4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelFileError, match="no model, or is damaged"):
            load(path)
    path.write_bytes(b"\xff" * 8 + whole[8:])  # a header of 2⁶⁴ bytes
    with pytest.raises(ModelFileError, match="no model, or is damaged"):
        load(path)


def test_a_file_is_read_by_those_who_may_read_the_others(path: Path) -> None:
    layer = Dense(1, (1,), rng=0)
    layer.initialize()
    save(layer, path)
    other = path.with_name("other")
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


def test_what_is_no_model_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="save takes a model and a path, and the model is 3"):
        save(3, tmp_path / "x")  # type: ignore[arg-type]
    with pytest.raises(ModelFileError, match=r"is no file: a model is a file that dense_xp.save wrote"):
        load(tmp_path)
    layer = Dense(1, (1,))
    layer.initialize()
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*: make it first"):
        save(layer, tmp_path / "missing" / "x")


@pytest.mark.parametrize("digits", [4301, 20_000])
def test_numbers_that_python_does_not_read(tmp_path: Path, digits: int) -> None:
    layer = Dense(1, (1,))
    layer.initialize("sgd")
    save(layer, tmp_path / "x", training=True)
    data = (tmp_path / "x").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    key = next(iter(header["__metadata__"]))
    header["__metadata__"][key] = header["__metadata__"][key].replace('"steps": 0', f'"steps": {"9" * digits}')
    text = json.dumps(header).encode()
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    with pytest.raises(ModelFileError):
        load(tmp_path / "x")


# ------------------------------------------------------------------ small files that ask for much


def written(path: Path, about: Any, tensors: Any = None, data: bytes = b"") -> int:
    """Write a model file by hand, with a description that may be no JSON; return its size."""
    text = about if isinstance(about, str) else json.dumps(about)
    header = json.dumps({"__metadata__": {"dense_xp": text}, **(tensors or {})}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path.stat().st_size


def made_of(layers: list[dict[str, Any]]) -> dict[str, Any]:
    config = {"layers": layers, "input_shape": [3]}
    return {"format": 1, "class": "Sequential", "dtype": "float32", "config": config}


def nested(deep: int) -> dict[str, Any]:
    layers: list[dict[str, Any]] = [{"class": "ReLU", "config": {}}]
    for _ in range(deep):
        layers = [{"class": "Sequential", "config": {"layers": layers}}]
    return made_of(layers)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (
            made_of([{"class": "ReLU", "config": {}}] * 20_000),
            r"a small file of more than 1,\d\d\d layers: pass limits",
        ),
        (nested(300), "nested more than 30 deep: pass limits=False to load if you trust it"),
        (made_of([{"class": "BatchNorm", "config": {"input_shape": [2**20]}}] * 200), r"what reaches it has|missing"),
    ],
    ids=["many", "deep", "wide"],
)
def test_a_small_file_costs_little(path: Path, about: Any, message: str) -> None:
    import tracemalloc

    size = written(path, about)
    tracemalloc.start()
    with pytest.raises(ModelFileError, match=message):
        load(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 16 * 2**20 + 20 * size


def test_limits_are_a_choice(path: Path) -> None:
    written(path, made_of([{"class": "ReLU", "config": {}}] * 3000))
    assert len(load(path, limits=False).layers) == 3000
    written(path, nested(40))
    load(path, limits=False)
    model = Sequential([Dense(20) for _ in range(1200)], input_shape=(20,), rng=0)
    model.initialize()
    save(model, path)  # more than a thousand, each with weights of its own
    same(load(path), model)
    written(path, nested(20))
    load(path)


def test_whoever_only_loads_knows_all_kinds_of_layers() -> None:
    """Nothing but `load` is asked for, in a process of its own."""
    kinds = [name for name in dense_xp.__all__ if name != "Layer" and _is_layer(name)]
    assert len(kinds) > 20
    code = (
        "import dense_xp; dense_xp.load\nfrom dense_xp.layers.configured import layer_class\n"
        f"for name in {kinds}: assert layer_class(name).__name__ == name"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _is_layer(name: str) -> bool:
    kind = getattr(dense_xp, name)
    return isinstance(kind, type) and issubclass(kind, Layer)


def test_only_the_backend_that_was_asked_for_is_imported(path: Path) -> None:
    inner = {"class": "ELU", "config": {"backend": "auto"}}
    written(path, made_of([inner, {"class": "Sequential", "config": {"layers": [inner], "backend": "torch"}}]))
    code = f"import sys, dense_xp; dense_xp.load({str(path)!r}); print({{'torch', 'jax', 'cupy'}} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("about", "tensor"),
    [
        ('{"format": 1, "class": "Dense", "config": {"n_units": ' + "1" * 4301 + "}}", None),
        (made_of([]), {"dtype": "F32", "shape": [1] * 70, "data_offsets": [0, 4]}),
        (made_of([]), {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}),
        (made_of([]), {"dtype": "I16", "shape": [0, 2**40], "data_offsets": [0, 0]}),
        ({**made_of([]), "history": {"metrics": {"loss": [10**400]}}}, None),
        ({**made_of([]), "history": {"metrics": {"loss": [1.0, 0.5]}, "best_epoch": 1.5}}, None),
        ({**made_of([]), "history": {"metrics": {"loss": [1.0, 0.5]}, "best_epoch": True}}, None),
        ({**made_of([]), "history": {"metrics": {"loss": [True]}}}, None),
        ({**made_of([]), "history": {"metrics": {}, "samples": -1}}, None),
        ({**made_of([]), "history": {"metrics": {}, "stopped": 3}}, None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_damage_is_one_class_of_error(path: Path, about: Any, tensor: Any) -> None:
    written(path, about, tensor and {"weight:W": tensor}, b"\0" * 4 if tensor and tensor["data_offsets"][1] else b"")
    with pytest.raises(ModelFileError):
        describe(path)
    with pytest.raises(ModelFileError):
        load(path)


def test_weights_that_contradict_each_other_by_their_names(path: Path) -> None:
    layer = Dense(2, (2,), rng=0)
    layer.initialize()
    save(layer, path, history=History({"loss": [1.0]}))
    for prefix in ("weight:", "best:"):
        rewritten(path, lambda about: None, lambda host: host.update({f"{prefix}W.x": np.ones(1, "float32")}))  # noqa: B023
    with pytest.raises(ModelFileError, match="does not fit together"):
        load(path)
    with pytest.raises(ModelFileError, match="does not fit together"):
        describe(path)


def test_errors_are_short_and_plain(path: Path) -> None:
    """Whatever a file has in the place of a name: no control characters, and no pages of it."""
    for name in ("\x1b[2Jrogue", "x" * 100_000):
        written(path, {"format": 1, "class": "Dense", "config": {"n_units": 1, name: 1}})
        with pytest.raises(ModelFileError, match="has no setting") as raised:
            load(path)
        assert str(raised.value).isprintable()
        assert len(str(raised.value)) < 700


# ------------------------------------------------------------------ what was given in place of a path, and the like


@pytest.mark.parametrize("given", [3, True, None, 1.5, ["a"]], ids=str)
def test_what_is_no_path(given: Any) -> None:
    model = network()
    model.initialize()
    for use in (lambda: save(model, given), lambda: load(given), lambda: describe(given)):
        with pytest.raises(TypeError, match=r"a path is a text or a pathlib\.Path, and this is "):
            use()
    for empty in ("", "a\0b"):
        with pytest.raises(ValueError, match="a path names a file, and this is "):
            load(empty)
    with pytest.raises(TypeError, match="save takes a model and a path, and the model is 3"):
        save(3, "model")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="history is what fit returned, and this is 3"):
        save(model, "model", history=3)  # type: ignore[arg-type]


def test_what_is_wrong_with_an_argument_is_no_fault_of_the_file(path: Path) -> None:
    model = network()
    model.initialize()
    save(model, path)
    with pytest.raises(UnknownBackendError, match="unknown backend 'nonsense'"):
        load(path, "nonsense")
    with pytest.raises(TypeError, match=r"custom must be a list"):
        load(path, custom=Own)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="custom has classes of layers, and 3 is none"):
        load(path, custom=[3])  # type: ignore[list-item]
    with pytest.raises(ModelFileError, match="is no file: a model is a file"):
        load(path.parent)
    with pytest.raises(IsADirectoryError, match="is a folder: name a file in it"):
        save(model, f"{path.parent}/new/")
    save(model, os.fsencode(path))  # type: ignore[arg-type]
    same(load(os.fsencode(path)), model)  # type: ignore[arg-type]
