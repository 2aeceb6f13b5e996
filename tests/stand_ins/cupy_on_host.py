"""The kernels for CuPy on a machine without a GPU: compiled as C++, for NumPy's arrays.

The kernels are the very text that CuPy hands to the CUDA compiler. The threads of a block take turns, from one
barrier to the next: what one of them reads before another has written it comes out wrong, and a barrier that not all
of them reach is an error. What stays unseen here is CUDA itself; the same tests run on CuPy where there is a device.
"""

from __future__ import annotations

import ctypes
import functools
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
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
            wanted = dtype if param[-2] == "T" else param[-2]
            assert wanted in TYPES, f"{self.name}: {param}"
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
        return compiled(source).kernel


def compiled(source: str) -> Any:
    """Return a C++ program as a library."""
    folder = Path(tempfile.mkdtemp())
    (folder / "kernel.cpp").write_text(source, encoding="utf-8")
    command = [str(COMPILER), "-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC"]
    files = ["-o", str(folder / "kernel.so"), str(folder / "kernel.cpp")]
    done = subprocess.run([*command, *files], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    library = ctypes.CDLL(str(folder / "kernel.so"))
    shutil.rmtree(folder)
    return library


BLOCKS = r"""
#include <cmath>
#include <csetjmp>
#include <functional>
#include <ucontext.h>
#include <vector>
using namespace std;
#define __global__
#define __device__ static
#define __shared__ static
#define __launch_bounds__(threads)
static unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned __int128)a * b >> 64;
}
struct Three { unsigned x, y, z; };
static Three threadIdx, blockIdx, blockDim, gridDim;
// Each thread is a context that starts once and then waits for the next block; jumps need no system call.
static ucontext_t outside, inside[1024];
static jmp_buf back, there[1024];
static vector<char> stacks(1024 << 14);
static unsigned now;
static bool started[1024], done[1024];
static function<void()> body;
static void __syncthreads() { if (!_setjmp(there[now])) _longjmp(back, 1); }
static void thread() { for (;;) { body(); done[now] = true; __syncthreads(); } }
static void go_on(unsigned t) {
    now = t;
    if (_setjmp(back)) return;
    if (started[t]) _longjmp(there[t], 1);
    started[t] = true;
    getcontext(&inside[t]);
    inside[t].uc_stack.ss_sp = &stacks[t << 14];
    inside[t].uc_stack.ss_size = 1 << 14;
    inside[t].uc_link = &outside;
    makecontext(&inside[t], thread, 0);
    setcontext(&inside[t]);
}
static int unequal() {
    for (bool& one : started) one = false;
    return 2;
}
static int run(Three grid, Three block, function<void()> f) {
    unsigned threads = block.x * block.y * block.z, waiting;
    bool forward = false;
    body = f; gridDim = grid; blockDim = block;
    if (threads > 1024) return 1;
    for (unsigned b = 0; b < grid.x * grid.y * grid.z; ++b) {
        blockIdx = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
        for (unsigned t = 0; t < threads; ++t) done[t] = false;
        do {
            waiting = 0;
            forward = !forward;
            for (unsigned k = 0; k < threads; ++k) {
                unsigned t = forward ? k : threads - 1 - k;
                if (done[t]) return unequal();  // the others wait at a barrier that this one does not reach
                threadIdx = {t % block.x, t / block.x % block.y, t / block.x / block.y};
                go_on(t);
                waiting += !done[t];
            }
            if (waiting && waiting < threads) return unequal();
        } while (waiting);
    }
    return 0;
}
"""
SIGNATURE = re.compile(r'extern "C" __global__ void __launch_bounds__\(1024\) (\w+)\(([^)]*)\)')


class RawModule:
    """As CuPy's: kernels that see blocks and threads."""

    def __init__(self, code: str) -> None:
        starters = [
            f'extern "C" int start_{name}(Three grid, Three block, {params}) {{ return run(grid, block, [=] '
            f"{{ {name}({', '.join(param.split()[-1] for param in params.split(','))}); }}); }}"
            for name, params in SIGNATURE.findall(code)
        ]
        self.library = compiled("\n".join([BLOCKS, code, *starters]))
        self.params = {name: params.split(",") for name, params in SIGNATURE.findall(code)}
        self.T = {"float": "float32", "double": "float64"}.get("".join(re.findall(r"typedef (\w+) T;", code)))

    def get_function(self, name: str) -> RawKernel:
        return RawKernel(self, name)


class Three(ctypes.Structure):
    _fields_ = [(axis, ctypes.c_uint) for axis in "xyz"]


class RawKernel:
    """One kernel of a module: arrays become pointers, and Python's numbers 64-bit ones."""

    def __init__(self, module: RawModule, name: str) -> None:
        self.name, self.T, self.params = name, module.T, module.params[name]
        self.start = getattr(module.library, f"start_{name}")

    def outputs(self) -> list[bool]:
        """Return for each parameter whether the kernel may write into it."""
        return ["*" in param and "const" not in param for param in self.params]

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        placed = []
        for param, argument in zip(self.params, arguments, strict=True):
            if "*" in param:
                others = {"double": "float64", "bool": "bool"}
                wanted = self.T if " T*" in f" {param}" else others.get(param.partition("*")[0].strip(), "int64")
                assert isinstance(argument, np.ndarray), f"{self.name}: {param} is no array"
                assert argument.dtype == wanted, f"{self.name}: {param} is {argument.dtype}"
                assert argument.flags.c_contiguous, f"{self.name}: {param}"
                placed.append(ctypes.c_void_p(argument.ctypes.data))
            else:
                kind, number = (int, ctypes.c_longlong) if "long" in param else (float, ctypes.c_double)
                assert type(argument) is kind, f"{self.name}: {param} is a {type(argument).__name__}"
                placed.append(number(argument))
        sizes = [Three(*((*size, 1, 1)[:3])) for size in (grid, block)]
        assert self.start(*sizes, *placed) == 0, f"{self.name}: not all threads reach the same barrier"
