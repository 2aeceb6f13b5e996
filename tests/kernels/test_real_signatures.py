"""Every call into CuPy, cupyx and torch.cuda, bound against the signature of the real library: that needs no device."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from tests.conftest import REQUIRED
from tests.stand_ins import cuda_on_host, cupy_on_host

PACKAGE = Path(__file__).parents[2] / "dense_xp"
FILES = [
    *sorted((PACKAGE / "kernels").glob("cupy*.py")),
    PACKAGE / "kernels/torch_lane.py",
    PACKAGE / "kernels/torch_reduction.py",
    PACKAGE / "backend/libraries.py",
]

ALIASES = {"runtime": "cupy.cuda.runtime", "core": "cupy._core", "nccl": "cupy.cuda.nccl"}
"""Names that a function gives to a module."""

RECEIVERS = {
    "cupy": {
        "stream": "cuda.Stream", "event": "cuda.Event", "_graph": "cuda.Graph", "_pool": "cuda.MemoryPool",
        "pool": "cuda.PinnedMemoryPool", "device": "cuda.Device", "data": "cuda.MemoryPointer",
        "communicator": "cuda.nccl.NcclCommunicator",
        "array": "ndarray", "value": "ndarray", "_module(dtype)": "RawModule", "_copied[slot]": "cuda.Event",
    },
    "torch": {"stream": "cuda.Stream", "event": "cuda.Event"},
}  # fmt: skip
"""What the names of objects stand for: their methods are looked up in these classes."""


class Call(NamedTuple):
    """One call, as the source has it."""

    where: str
    root: str
    name: str
    arguments: int
    keywords: tuple[str, ...]


def parts_of(node: ast.AST) -> list[str]:
    """Return the names of ``a.b.c``; of anything else that has attributes, its source first."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [ast.unparse(node), *reversed(names)]


def calls(path: Path, source: str | None = None) -> Iterator[Call]:
    """Yield the calls of a file into the libraries, and the attributes that it reads, as calls without arguments."""
    library = "torch" if path.stem.startswith("torch") else "cupy"
    for node in ast.walk(ast.parse(source or path.read_text(encoding="utf-8"))):
        called = isinstance(node, ast.Call)
        *owner, name = parts_of(node.func if isinstance(node, ast.Call) else node)
        if not owner:
            continue
        count, keywords = -1, []
        if isinstance(node, ast.Call):
            count, keywords = len(node.args), [keyword.arg or "" for keyword in node.keywords]
        where = f"{path.stem}:{getattr(node, 'lineno', 0)}"
        owner = [*ALIASES.get(owner[0], owner[0]).split("."), *owner[1:]] if owner[0].isidentifier() else owner
        if owner[0] in ("cupy", "cupyx") or owner[:2] in (["torch", "cuda"], ["torch", "distributed"]):
            yield Call(where, owner[0], ".".join([*owner[1:], name]), count, tuple(keywords))
        elif called and (kind := RECEIVERS[library].get(owner[-1])) is not None and path.parent.name == "kernels":
            yield Call(where, library, f"{kind}.{name}", count, tuple(keywords))


def signature_of(function: Any) -> inspect.Signature:
    """Return a signature; of a function compiled by Cython, from the first line of its documentation."""
    try:
        return inspect.signature(function)
    except ValueError:
        text = (function.__doc__ or "").strip().partition("\n")[0]
    inside = re.fullmatch(r"[\w.]+\((.*)\)(?: -> .*)?", text)
    if inside is None:
        raise ValueError(f"{function} does not say what it takes: {text!r}")
    parameters, kind = [], inspect.Parameter.POSITIONAL_OR_KEYWORD
    for piece in re.split(r",\s*(?![^()]*\))", inside[1]):
        declared, _, default = piece.partition("=")
        if declared.startswith("**"):
            parameters.append(inspect.Parameter(declared[2:], inspect.Parameter.VAR_KEYWORD))
        elif declared.startswith("*"):
            if len(declared) > 1:
                parameters.append(inspect.Parameter(declared[1:], inspect.Parameter.VAR_POSITIONAL))
            kind = inspect.Parameter.KEYWORD_ONLY
        elif declared:
            name = declared.split()[-1]
            parameters.append(inspect.Parameter(name, kind, default=default or inspect.Parameter.empty))
    return inspect.Signature(parameters)


def check(call: Call) -> None:
    """Raise if the real library has no such thing, or would not take these arguments."""
    found: Any = importlib.import_module(call.root)
    owner = None
    for name in call.name.split("."):
        if not hasattr(found, name):
            found = importlib.import_module(f"{found.__name__}.{name}")
            continue
        owner, found = found, getattr(found, name)
    if call.arguments < 0:
        return
    itself, signature = [None] if isinstance(owner, type) else [], signature_of(found)
    # what takes any keyword says in its documentation alone which it knows
    named = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    signature.replace(parameters=named).bind(*itself, *[None] * call.arguments, **dict.fromkeys(call.keywords))


def everything() -> list[Call]:
    found = {call for path in FILES for call in calls(path)}
    return sorted(found)


def test_the_calls_are_found() -> None:
    names = {f"{call.root}.{call.name}" for call in everything() if call.arguments >= 0}
    assert names > {
        "cupy.cuda.runtime.memcpyAsync", "cupy.cuda.Stream.wait_event", "cupy.cuda.Event.record", "cupyx.empty_pinned",
        "cupy.cuda.Graph.launch", "cupy.cuda.MemoryPointer.copy_from_device_async", "torch.cuda.Event.record",
        "cupy.RawModule.get_function", "cupy.cuda.MemoryPool.free_all_blocks", "cupy._core.get_compute_type",
    }  # fmt: skip
    assert len(names) > 30


@pytest.mark.parametrize("call", everything(), ids=lambda call: f"{call.where}-{call.name}")
def test_the_real_library_takes_it(call: Call) -> None:
    pytest.importorskip(call.root)
    if call.name.startswith("cuda.nccl."):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not importlib.import_module("cupy.cuda.nccl").available and "nccl" not in REQUIRED:
                pytest.skip("CuPy finds no NCCL: pip install nvidia-nccl-cu13")
    check(call)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("cupy.cuda.Streams()", ImportError),
        ("cupy.cuda.Event(timing=False)", TypeError),
        ("cupy.cuda.runtime.memcpyAsync(1, 2, 3)", TypeError),
        ("runtime.getDeviceCount(1)", TypeError),
        ("self.stream.wait(event)", (AttributeError, ImportError)),
        ("event.record(stream, 1, 2)", TypeError),
        ("cupy.empty((3,), kind=1)", TypeError),
        ("core._routines_linalg.COMPUTE_TYPE_TF33", (AttributeError, ImportError)),
    ],
)
def test_a_wrong_name_or_argument_is_found(source: str, error: Any) -> None:
    pytest.importorskip("cupy")
    found = list(calls(PACKAGE / "kernels/cupy.py", source))
    assert found
    with pytest.raises(error):
        list(map(check, found))


def offered(module: Any, real: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield what a stand-in offers under public names, and what stands there in the real library."""
    for name, value in vars(module).items():
        if name.startswith("_"):
            continue
        actual = getattr(real, name, None)
        yield f"{path}.{name}", value, actual
        if isinstance(value, SimpleNamespace):
            yield from offered(value, actual, f"{path}.{name}")


@pytest.mark.parametrize("source", ["torch.cuda.Stream(device, importance=1)", "torch.cuda.Event(timing=False)"])
def test_a_wrong_argument_of_torch_is_found(source: str) -> None:
    pytest.importorskip("torch")
    with pytest.raises(TypeError):
        list(map(check, calls(PACKAGE / "kernels/torch_lane.py", source)))


def test_the_stand_in_offers_nothing_that_cupy_lacks() -> None:
    """And has its numbers: its names, and the values of its constants."""
    real = pytest.importorskip("cupy")
    if cupy_on_host.COMPILER is None:
        pytest.skip("the stand-in for CuPy needs a C++ compiler")
    seen = list(offered(cuda_on_host.cupy().cuda, real.cuda, "cupy.cuda"))
    assert len(seen) > 10
    for name, value, actual in seen:
        assert actual is not None, name
        if isinstance(value, int | str) and not isinstance(value, bool):
            assert value == actual, name
