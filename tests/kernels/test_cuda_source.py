"""The text of the kernels, given to NVIDIA's compiler as CuPy calls it: that works without a GPU."""

from __future__ import annotations

import importlib
import re
from typing import Any

import numpy as np
import pytest

from tests.conftest import REQUIRED
from tests.stand_ins import cuda_on_host, cupy_on_host

nvrtc = pytest.importorskip("cupy.cuda").nvrtc


def program_of(source: str) -> Any:
    """Return a source as NVIDIA's compiler holds it, or skip."""
    try:
        return nvrtc.createProgram(source, "kernels.cu", (), ())
    except RuntimeError as error:
        if "cuda13" in REQUIRED:
            raise
        pytest.skip(f"CuPy finds no compiler: {error}")


def compiled(source: str, architecture: str = "sm_80", options: tuple[str, ...] = ("--std=c++17",)) -> str:
    """Return what the compiler has to say; empty if it is content."""
    program = program_of(source)
    try:
        nvrtc.compileProgram(program, [f"--gpu-architecture={architecture}", *options])
        refused = ""
    except nvrtc.NVRTCError as error:
        refused = str(error)
    said = str(nvrtc.getProgramLog(program)).strip("\0 \n")
    nvrtc.destroyProgram(program)
    return said or refused


@pytest.fixture
def kernels() -> Any:
    if cupy_on_host.COMPILER is None:
        pytest.skip("the stand-in for CuPy needs a C++ compiler")
    return cuda_on_host.kernels()


@pytest.mark.parametrize("real", ["float", "double"])
@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_90"])
def test_kernels_that_see_blocks(kernels: Any, real: str, architecture: str) -> None:
    assert compiled(f"typedef {real} T;\n{kernels._SOURCE}", architecture) == ""


def test_sums_of_columns_ask_for_four_rows_before_they_wait(kernels: Any) -> None:
    """By PTX: all loads of four rows come first, and no gradient is waited for to know whether another is needed."""
    program = program_of(f"typedef float T;\n{kernels._SOURCE}")
    nvrtc.compileProgram(program, ["--gpu-architecture=compute_90", "--std=c++17"])
    text = nvrtc.getPTX(program)
    nvrtc.destroyProgram(program)
    bodies = dict(
        re.findall(r"\.entry (\w+)\((.*?)\n\}", text.decode() if isinstance(text, bytes) else text, re.DOTALL)
    )
    for name, unchanged, changed in (
        ("relu_backward", 4, 4), ("tanh_backward", 4, 4), ("sigmoid_backward", 4, 4), ("activation_backward", 4, 4),
        ("layer_norm_sums", 8, 0), ("linear_backward", 0, 4),
    ):  # fmt: skip
        accesses = re.findall(r"\b(?:ld|st)\.global(?:\.nc)?", bodies[name])
        first = accesses[: accesses.index("st.global")]
        assert (first.count("ld.global.nc"), first.count("ld.global")) == (unchanged, changed), (name, accesses)
    assert bodies["relu_backward"].count(" bra ") == bodies["tanh_backward"].count(" bra ")


@pytest.mark.parametrize("architecture", ["sm_75", "sm_90"])
def test_random_numbers(kernels: Any, architecture: str) -> None:
    assert compiled(kernels.cupy_random._SOURCE, architecture) == ""


@pytest.mark.parametrize("real", ["float", "double"])
def test_elementwise_kernels(kernels: Any, real: str) -> None:
    everything = [*vars(kernels).values(), *kernels._CURVES.values()]
    found = [value for value in everything if isinstance(value, cupy_on_host.ElementwiseKernel)]
    assert len(found) > 18
    for kernel in found:
        kinds = {"T": "T", **cupy_on_host.TYPES}
        inputs = [f"const {kinds[param[-2]]}& {param[-1]}" for param in kernel.inputs]
        outputs = [f"{kinds[param[-2]]}& {param[-1]}" for param in kernel.outputs]
        source = f"__device__ void body({', '.join(inputs + outputs)}) {{ {kernel.body}; }}"
        assert compiled(f'typedef {real} T;\n{source}\nextern "C" __global__ void kernel() {{}}') == "", kernel.name


@pytest.mark.parametrize("real", ["float32", "float64"])
def test_elementwise_kernels_as_cupy_writes_them(real: str) -> None:
    """With CuPy's own headers and NVIDIA's, from where CuPy finds them; CuPy's own arrays are declared around each."""
    core, made = (importlib.import_module(f"cupy._core.{name}") for name in ("core", "_kernel"))
    indexer = importlib.import_module("cupy._core._carray").Indexer
    ours, cupy = (importlib.import_module(name) for name in ("dense_xp.kernels.cupy", "cupy"))
    program_of("")
    head, options = "".join(f"#include <{name}>\n" for name in core._cupy_header_list), ()
    found = [x for x in [*vars(ours).values(), *ours._CURVES.values()] if isinstance(x, cupy.ElementwiseKernel)]
    assert len(found) > 18
    for kernel in found:
        dtypes = [np.dtype(real if each.ctype == "T" else each.dtype) for each in kernel.in_params + kernel.out_params]
        *_, types = kernel._decide_params_type(tuple(dtypes[: kernel.nin]), tuple(dtypes[kernel.nin :]))
        infos = [made._ArgInfo(1, cupy.ndarray, dtype, 2, True, True) for dtype in dtypes]
        infos.append(made._ArgInfo(2, indexer, None, 2, True, True))
        parts = tuple(infos), types, kernel.params, kernel.operation, kernel.name, kernel.preamble
        source = head + made._get_elementwise_kernel_code(*parts)
        options = options or core.assemble_cupy_compiler_options(())
        assert compiled(source, "sm_90", options) == "", kernel.name


def test_the_compiler_finds_what_is_wrong() -> None:
    assert "undefined" in compiled('extern "C" __global__ void kernel(float* x) { x[0] = y; }')
