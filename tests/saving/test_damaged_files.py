"""Model files that are damaged, or made to do harm: each loads, or is refused by one sentence of one class.

The tests try some thousands. By hand, a number of files and perhaps a seed, with a report at the end:

    python -m tests.saving.test_damaged_files 1000000 7
"""

from __future__ import annotations

import copy
import functools
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from dense_xp import (
    SGD,
    Adam,
    BatchNorm,
    CosineSchedule,
    Dense,
    Dropout,
    EarlyStopping,
    Layer,
    LayerNorm,
    ModelFileError,
    ReduceLROnPlateau,
    RMSprop,
    Sequential,
    WarmUp,
    add_lora,
    describe,
    load,
    quantize,
    save,
)


class File(NamedTuple):
    """The three parts of a model file."""

    header: dict[str, Any]
    about: dict[str, Any]
    data: bytes

    @classmethod
    def of(cls, whole: bytes) -> File:
        end = 8 + int.from_bytes(whole[:8], "little")
        header = json.loads(whole[8:end])
        return cls(header, json.loads(header.pop("__metadata__")["dense_xp"]), whole[end:])

    def written(self, text: Any = None) -> bytes:
        metadata = {"dense_xp": json.dumps(self.about) if text is None else text}
        header = json.dumps({**self.header, "__metadata__": metadata}).encode()
        return len(header).to_bytes(8, "little") + header + self.data


def models() -> Iterator[tuple[Layer, dict[str, Any]]]:
    """Yield models of all kinds, and how they are saved."""
    data = np.random.default_rng(0).normal(size=(12, 3)), np.random.default_rng(1).normal(size=12)
    for kind in ("PCG64", "MT19937", "Philox", "SFC64", "PCG64DXSM"):
        inner = Sequential([BatchNorm(), Dense(3, use_bias=False), Dropout(0.2)], name="inner")
        net = Sequential(
            [LayerNorm(), Dense(4, activation={"class": "ELU", "config": {"alpha": 2.0}}), inner, Dense(1)],
            rng=np.random.Generator(getattr(np.random, kind)(3)),
        )
        net.layers[1].regularized(W="l2")
        rule = {"PCG64": Adam(WarmUp(CosineSchedule(0.01, 40), 5)), "Philox": RMSprop()}.get(
            kind, SGD(0.1, momentum=0.9)
        )
        seen: list[Any] = []
        watch = [
            EarlyStopping("loss"),
            ReduceLROnPlateau("loss"),
            lambda run, seen=seen: seen.append(copy.deepcopy(run)),
        ]
        net.fit(*data, 2, 4, optimizer=rule, callbacks=watch)
        yield (
            seen[-1].model,
            {"training": True, "history": seen[-1].history, "extra": {"classes": ["a", "b"], "x": [1.5]}},
        )
    small = Dense(2, (3,), dtype="float16", rng=0)
    small.initialize("adam")
    yield small, {"training": True}
    net = Sequential([Dense(2), Dense(2)], input_shape=(3,), rng=0)
    net.initialize()
    yield quantize(net), {}
    yield add_lora(net, 1), {}


@functools.cache
def files() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        whole = []
        for model, how in models():
            save(model, path, **how)
            whole.append(path.read_bytes())
        return whole


# fmt: off
NUMBERS = [
    0, 1, -1, 2, 3, 7, 64, 625, 10**8, 2**20, 2**31, 2**32, 2**63, 2**64, 2**128, 10**400,
    0.0, -0.0, 0.5, 1e-320, 1e300, float("nan"), float("inf"), -float("inf"), True, False,
]
TEXTS = [
    "", ".", "W", "weight:", "best:W", "optimizer:", "Dense", "Sequential", "LoRA", "QuantizedDense", "BatchNorm",
    "a.b", "adam", "Adam", "float64", "bfloat16", "int8", "F16", "F64", "BF16", "I8", "BOOL", "F8_E4M3", "PCG64",
    "Philox", "auto", "torch", "numpy", "os.system", "\x1b[2J", "\ud800", "ä" * 70, "x" * 5000,
]
OTHERS = [
    None, [], {}, [[]], [1, 2], [0] * 64, [1.5] * 3, {"name": "l2"}, {"name": "zeros"}, {"class": "ReLU", "config": {}},
    {"class": "Sequential", "config": {"layers": []}}, {"class": "SGD", "learning_rate": 0.1},
]
# fmt: on


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Return all places in plain values, as a list or dict and the index in it."""
    found, level = [], [tree]
    while level:
        here = [(value, key) for value in level for key in (value if isinstance(value, dict) else range(len(value)))]
        found += here
        level = [value[key] for value, key in here if isinstance(value[key], dict | list)]
    return found


def changed(tree: Any, rng: random.Random) -> None:
    """Change one place in plain values: replace, remove, rename, or bring something from elsewhere in its place."""
    if not (known := places(tree)):
        return
    # the numbers of a random state are so many that nothing else would be hit
    outer, key = rng.choice(
        known if rng.random() < 0.3 else [place for place in known if not isinstance(place[1], int)]
    )
    what = rng.randrange(6)
    if what == 0:
        del outer[key]
    elif what == 1 and isinstance(outer, dict):
        outer[rng.choice([*TEXTS, *(str(other) for _, other in known)])] = outer.pop(key)
    elif what == 2:
        other, name = rng.choice(known)
        outer[key] = copy.deepcopy(other[name])
    elif what == 3 and isinstance(outer[key], int | float) and abs(outer[key]) < 2**64:
        outer[key] += rng.choice([-1, 1, 0.5, 100])
    elif what == 4 and isinstance(outer[key], list):
        outer[key] = outer[key] * rng.choice([0, 2, 50])
    else:
        outer[key] = copy.deepcopy(rng.choice([NUMBERS, TEXTS, OTHERS][rng.randrange(3)]))


def damaged(rng: random.Random) -> bytes:
    """Return a model file with something wrong in its bytes, its list of arrays or its description; or with nothing."""
    whole = rng.choice(files())
    if rng.random() < 0.8:
        file = File.of(whole)
        for _ in range(rng.randrange(1, 4)):
            parts = [part for part in file.about.values() if isinstance(part, dict)]
            changed(rng.choice([file.header, file.about, *parts]), rng)
        text = rng.choice([3, None, [], "", "[" * 5000, '{"a":' * 5000, "1" * 4301]) if rng.random() < 0.02 else None
        whole = file.written(text)
    if rng.random() < 0.3:
        at, much = rng.randrange(len(whole)), rng.choice([1, 1, 2, 8, 200])
        new = bytes(rng.randrange(256) for _ in range(rng.choice([0, 1, 1, 2, 8])))
        whole = whole[:at] if rng.random() < 0.2 else whole[:at] + new + whole[at + much :]
    return whole


def tried(path: Path) -> bool:
    """Load a file and use what it holds; return whether it was accepted. Any other error is a fault of the package."""
    model = None
    for use in (describe, load):
        try:
            model = use(path)
        except ModelFileError as error:
            text = str(error).removeprefix(str(path))
            assert text.isprintable()
            assert len(text) < 700
            model = None
    if model is None:
        return False
    if model.rng is not np.random:
        state = model.rng.bit_generator.state
        assert 0 <= state["state"].get("pos", 0) <= 624  # beyond these lies memory of others
        assert 0 <= state.get("buffer_pos", 0) <= 4
        assert np.isfinite(model.rng.normal(size=1500)).all()
    with np.errstate(all="ignore"):  # weights may be anything
        model.forward_pass(np.ones((2, *model.input_shape)), training=False)
    return True


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "model"


def test_what_is_whole_loads(place: Path) -> None:
    for whole in files():
        for again in (whole, File.of(whole).written()):
            place.write_bytes(again)
            assert tried(place)


@settings(max_examples=6000, deadline=2000, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1))
def test_what_is_damaged_is_refused_or_serves(place: Path, seed: int) -> None:
    place.write_bytes(damaged(random.Random(seed)))
    tried(place)


def main(count: int, seed: int) -> None:
    """Try so many files from a seed on, and report; stops at the first fault, and names its seed."""
    import resource

    with tempfile.TemporaryDirectory() as folder:
        path, accepted, slowest, largest = Path(folder) / "model", 0, 0.0, 0
        for whole in files():
            path.write_bytes(whole)
            tried(path)
        before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        for at in range(seed, seed + count):
            whole = damaged(random.Random(at))
            path.write_bytes(whole)
            begun = time.perf_counter()
            try:
                accepted += tried(path)
            except BaseException:
                print(f"seed {at}")
                raise
            slowest, largest = max(slowest, time.perf_counter() - begun), max(largest, len(whole))
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"{count:,} files of up to {largest:,} bytes, {accepted:,} accepted; slowest {slowest:.3f} s, "
              f"{grown:.1f} MiB more memory, {time.perf_counter() - started:.0f} s in all")  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
