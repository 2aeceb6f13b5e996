"""Who may import whom: the arrows of the architecture point one way, and the import is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dense_xp

PACKAGE = Path(dense_xp.__file__).parent

# each module may import those on its own line and on the lines above it; on one line, only what is named first
LAYERS = (
    ("backend", "schedules", "rounding", "names", "table_files"),
    ("feeding", "special", "datasets", "initializers", "tables"),
    ("losses", "optimizers", "loss_scaling", "regularizers", "constraints"),
    ("layer", "metrics"),
    ("activations", "dropout", "normalization"),
    ("dense",),
    ("fused",),
    ("steps", "samples", "history"),
    ("training",),
    ("sequential",),
    ("bench", "demo", "parity", "saving", "lora", "quantization"),
    ("callbacks",),
    ("estimators",),
    ("cli",),
    ("__main__",),
)
LEAVES = {"schedules", "rounding", "names", "table_files"}  # these import nothing of the package
KERNEL_USERS = {"fused", "cli"}  # the only ones who see the kernels, which see nobody
KERNELS = sorted(path.stem for path in (PACKAGE / "kernels").glob("*.py"))
INTEROP = sorted(path.stem for path in (PACKAGE / "interop").glob("*.py"))  # beside callbacks; only cli imports it
OTHERS = {"onnx": {"onnx", "ndonnx"}, "torch": {"torch"}, "keras": {"keras"}, "sklearn": {"sklearn"}}
ARRAY_LIBRARIES = {"cupy", "torch", "jax", "dpnp", "array_api_strict", "dask", "mlx", "numba", "tensorflow"}
HEAVY = ARRAY_LIBRARIES | {"scipy", *set().union(*OTHERS.values())}
PACKAGES = {"cli"}  # modules that are folders: their files count as one
MODULES = sorted({path.stem for path in PACKAGE.glob("*.py")} | PACKAGES)


def sources(module: str) -> list[str]:
    """Return the texts of a module's files."""
    files = sorted((PACKAGE / module).glob("*.py")) if module in PACKAGES else [PACKAGE / f"{module}.py"]
    return [file.read_text(encoding="utf-8") for file in files]


def imports(module: str) -> set[str]:
    """Return the absolute names that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in (node for text in sources(module) for node in ast.walk(ast.parse(text))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def level(module: str) -> int:
    return next(i for i, row in enumerate(LAYERS) if module in row)


def test_every_module_has_its_place() -> None:
    assert set(MODULES) == {name for row in LAYERS for name in row} | {"__init__"}


@pytest.mark.parametrize("module", [name for name in MODULES if name != "__init__"])
def test_imports_point_one_way(module: str) -> None:
    own = {name.split(".")[1] for name in imports(module) if name.startswith("dense_xp.")}
    assert "kernels" not in own or module in KERNEL_USERS
    assert "interop" not in own or module == "cli"
    own = own & set(MODULES) - {module}
    if module in LEAVES:
        assert not own
    assert all(level(other) < level(module) for other in own), f"{module} imports {own}"


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_know_arrays_alone_and_one_library_each(kernel: str) -> None:
    used = imports(f"kernels/{kernel}")
    assert all(name.startswith("dense_xp.kernels") for name in used if name.startswith("dense_xp"))
    assert {name.partition(".")[0] for name in used} & ARRAY_LIBRARIES <= {kernel.partition("_")[0]}


@pytest.mark.parametrize("module", INTEROP)
def test_each_way_across_knows_one_library(module: str) -> None:
    """It is named where it is needed, and nowhere at the head of a file."""
    used = imports(f"interop/{module}")
    own = {name.split(".")[1] for name in used if name.startswith("dense_xp.")} & set(MODULES)
    assert all(level(other) < level("callbacks") for other in own), f"{module} imports {own}"
    assert {name.partition(".")[0] for name in used} & HEAVY == set()
    tree = _without_docstrings(f"interop/{module}")
    asked = {
        node.args[0].value.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "imported"
    }
    assert asked == OTHERS.get(module, set())


@pytest.mark.parametrize("module", MODULES)
def test_array_libraries_are_named_in_backend_only(module: str) -> None:
    named = {name.partition(".")[0] for name in imports(module)} & ARRAY_LIBRARIES
    assert not named, f"{module} imports {named}"
    if module != "backend":
        text = ast.unparse(_without_docstrings(module))
        strings = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
        assert not strings & ARRAY_LIBRARIES, f"{module} names {strings & ARRAY_LIBRARIES}"


def _without_docstrings(module: str) -> ast.Module:
    tree = ast.parse("\n".join(text.replace("from __future__ import annotations", "") for text in sources(module)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)
    return tree


def test_the_import_is_light() -> None:
    """NumPy and array-api-compat, and no other array library, also where those are installed."""
    code = f"import sys, dense_xp\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}} & {HEAVY}))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    assert done.stderr == ""


def test_the_ways_across_are_imported_when_they_are_asked_for() -> None:
    code = (
        "import sys, dense_xp; a = 'dense_xp.interop' in sys.modules; import dense_xp.interop; print(a, *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    early, *loaded = done.stdout.split()
    assert early == "False"
    assert not set(loaded) & HEAVY


def test_the_public_names_are_all_there() -> None:
    assert len(set(dense_xp.__all__)) == len(dense_xp.__all__)
    for name in dense_xp.__all__:
        assert getattr(dense_xp, name).__doc__
