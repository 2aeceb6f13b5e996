"""The text of the kernels, given to NVIDIA's compiler: that works without a GPU."""

from __future__ import annotations

from typing import Any

import pytest

from tests.stand_ins import cuda_on_host, cupy_on_host

nvrtc = pytest.importorskip("cuda.bindings.nvrtc")  # pip install cuda-bindings nvidia-cuda-nvrtc


def compiled(source: str, architecture: str = "sm_80") -> str:
    """Return what the compiler has to say; empty if it is content."""
    try:
        _, program = nvrtc.nvrtcCreateProgram(source.encode(), b"kernels.cu", 0, [], [])
    except RuntimeError as error:
        pytest.skip(f"cuda-bindings finds no compiler: {error}")
    options = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17"]
    (result,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = b" " * size
    nvrtc.nvrtcGetProgramLog(program, log)
    said = log.decode().strip("\0 \n")
    return said or ("" if result == nvrtc.nvrtcResult.NVRTC_SUCCESS else str(result))


@pytest.fixture
def kernels() -> Any:
    if cupy_on_host.COMPILER is None:
        pytest.skip("the stand-in for CuPy needs a C++ compiler")
    return cuda_on_host.kernels()


@pytest.mark.parametrize("real", ["float", "double"])
@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_90"])
def test_kernels_that_see_blocks(kernels: Any, real: str, architecture: str) -> None:
    assert compiled(f"typedef {real} T;\n{kernels._BLOCKS}", architecture) == ""


@pytest.mark.parametrize("real", ["float", "double"])
def test_elementwise_kernels(kernels: Any, real: str) -> None:
    found = [value for value in vars(kernels).values() if isinstance(value, cupy_on_host.ElementwiseKernel)]
    assert len(found) > 8
    for kernel in found:
        inputs = [f"const {param[-2]}& {param[-1]}" for param in kernel.inputs]
        outputs = [f"{param[-2]}& {param[-1]}" for param in kernel.outputs]
        source = f"__device__ void body({', '.join(inputs + outputs)}) {{ {kernel.body}; }}"
        assert compiled(f'typedef {real} T;\n{source}\nextern "C" __global__ void kernel() {{}}') == "", kernel.name


def test_the_compiler_finds_what_is_wrong() -> None:
    assert "undefined" in compiled('extern "C" __global__ void kernel(float* x) { x[0] = y; }')
