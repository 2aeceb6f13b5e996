"""The text of the kernels, given to NVIDIA's compiler as CuPy calls it: that works without a GPU."""

from __future__ import annotations

from typing import Any

import pytest

from tests.stand_ins import cuda_on_host, cupy_on_host

nvrtc = pytest.importorskip("cupy.cuda").nvrtc


def compiled(source: str, architecture: str = "sm_80") -> str:
    """Return what the compiler has to say; empty if it is content."""
    try:
        program = nvrtc.createProgram(source, "kernels.cu", (), ())
    except RuntimeError as error:
        pytest.skip(f"CuPy finds no compiler: {error}")
    try:
        nvrtc.compileProgram(program, [f"--gpu-architecture={architecture}", "--std=c++17"])
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


def test_the_compiler_finds_what_is_wrong() -> None:
    assert "undefined" in compiled('extern "C" __global__ void kernel(float* x) { x[0] = y; }')
