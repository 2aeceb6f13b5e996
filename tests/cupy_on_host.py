"""The kernels for CuPy on a machine without a GPU: CuPy's array functions are NumPy's, its kernels are compiled as C++.

The bodies of the kernels are the very text that CuPy hands to the CUDA compiler. What stays unseen here is
CUDA itself; the same tests run on CuPy where there is a device.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")

TYPES = {"float32": "float", "float64": "double", "int64": "long long", "bool": "bool"}


class ElementwiseKernel:
    """As CuPy's: inputs and outputs are broadcast, `T` is one dtype, a ``raw`` input is indexed by hand."""

    def __init__(self, inputs: str, outputs: str, body: str, name: str) -> None:
        self.inputs = [text.split() for text in inputs.split(",")]
        self.outputs = [text.split() for text in outputs.split(",")]
        self.body, self.name = body, name

    def __call__(self, *arguments: Any) -> None:
        params = self.inputs + self.outputs
        assert len(arguments) == len(params), self.name
        arrays = [a for a in arguments if isinstance(a, np.ndarray)]
        results = arguments[len(self.inputs) :]
        assert all(isinstance(a, np.ndarray) for a in results), f"{self.name}: outputs must be arrays"
        (dtype,) = {
            a.dtype.name for p, a in zip(params, arguments, strict=True) if p[-2] == "T" and isinstance(a, np.ndarray)
        }
        shaped = [a for p, a in zip(params, arguments, strict=True) if p[0] != "raw" and isinstance(a, np.ndarray)]
        shape = np.broadcast_shapes(*(a.shape for a in shaped))
        assert all(a.shape == shape and a.flags.c_contiguous for a in results), f"{self.name}: {shape}"
        placed = []
        for param, argument in zip(params, arguments, strict=True):
            wanted = dtype if param[-2] == "T" else {"int64": "int64", "bool": "bool"}[param[-2]]
            if isinstance(argument, np.ndarray):
                assert argument.dtype == wanted, f"{self.name}: {param} is {argument.dtype}"
            else:
                argument = np.asarray(argument, dtype=wanted)
            if param[0] != "raw" and param not in self.outputs:
                argument = np.ascontiguousarray(np.broadcast_to(argument, shape))
            placed.append(argument)
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in placed]
        self._compiled(dtype)(ctypes.c_longlong(int(np.prod(shape))), *pointers)
        assert arrays  # keeps them alive up to here

    @functools.cache  # noqa: B019 - kernels live as long as their module
    def _compiled(self, dtype: str) -> Any:
        declared, bound = [], []
        for param in self.inputs + self.outputs:
            kind, name = ("T" if param[-2] == "T" else TYPES[param[-2]]), param[-1]
            const = "const " if param in self.inputs else ""
            if param[0] == "raw":
                declared.append(f"const {kind}* {name}")
            else:
                declared.append(f"{const}{kind}* {name}_all")
                bound.append(f"{const}{kind}& {name} = {name}_all[i];")
        source = (
            f"#include <cmath>\nusing namespace std; typedef {TYPES[dtype]} T;\n"
            f'extern "C" void kernel(long long n, {", ".join(declared)}) {{\n'
            f"  for (long long i = 0; i < n; ++i) {{ {' '.join(bound)} {self.body}; }}\n}}\n"
        )
        folder = Path(tempfile.mkdtemp())
        (folder / "kernel.cpp").write_text(source, encoding="utf-8")
        command = [
            str(COMPILER),
            "-O1",
            "-shared",
            "-fPIC",
            "-o",
            str(folder / "kernel.so"),
            str(folder / "kernel.cpp"),
        ]
        subprocess.run(command, check=True, capture_output=True, text=True)
        library = ctypes.CDLL(str(folder / "kernel.so"))
        shutil.rmtree(folder)
        return library.kernel


@functools.cache
def kernels() -> ModuleType:
    """Return dense_xp.kernels.cupy, made for NumPy's arrays; nobody else sees that CuPy."""
    fake = ModuleType("cupy")
    vars(fake).update({name: getattr(np, name) for name in np.__all__})
    fake.ElementwiseKernel = ElementwiseKernel  # type: ignore[attr-defined]
    name = "dense_xp.kernels.cupy"
    kept = {key: sys.modules.pop(key) for key in ("cupy", name) if key in sys.modules}
    sys.modules["cupy"] = fake
    try:
        return importlib.import_module(name)
    finally:
        del sys.modules["cupy"]
        sys.modules.pop(name, None)
        sys.modules.update(kept)
