"""Who may import whom: the arrows between the chapters point one way, and the import is light."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import dense_xp

PACKAGE = Path(dense_xp.__file__).parent

# each chapter may import those on the lines above it
FLOORS = (
    ("starting",),
    ("backend", "kernels", "datasets"),
    ("support",),
    ("learning", "tables"),
    ("layers",),
    ("training",),
    ("saving", "estimators", "evidence", "interop"),
    ("cli",),
    ("__init__", "__main__"),
)
FLOOR = {chapter: number for number, row in enumerate(FLOORS) for chapter in row}
# on one floor, one way
BESIDE = {
    ("tables", "learning"),
    ("interop", "saving"),
    ("__main__", "__init__"),
}
OTHERS = {"onnx": {"onnx", "ndonnx"}, "torch": {"torch"}, "keras": {"keras"}, "sklearn": {"sklearn"}}
ARRAY_LIBRARIES = {"cupy", "torch", "jax", "dpnp", "array_api_strict", "dask", "mlx", "numba", "tensorflow"}
HEAVY = ARRAY_LIBRARIES | {"scipy", *set().union(*OTHERS.values())}
FILES = {path.relative_to(PACKAGE): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
IN_KERNELS = [file for file in FILES if file.parts[0] == "kernels"]
IN_INTEROP = [file for file in FILES if file.parts[0] == "interop"]


def chapter(file: Path) -> str:
    return file.parts[0].removesuffix(".py")


def module(file: Path) -> str:
    return ".".join(("dense_xp", *file.with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module(file) for file in FILES}


def imports(file: Path) -> set[str]:
    """Return the absolute names that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(FILES[file])):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_modules(file: Path) -> set[str]:
    """Return the modules of the package that a file imports."""
    names = {name for name in imports(file) if name.startswith("dense_xp.") and name != "dense_xp.__version__"}
    return {name if name in MODULES else name.rpartition(".")[0] for name in names} - {module(file)}


def test_every_chapter_has_its_floor() -> None:
    assert {chapter(file) for file in FILES} == set(FLOOR)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_arrows_between_chapters_point_one_way(file: Path) -> None:
    own = chapter(file)
    used = {name.split(".")[1] for name in own_modules(file)} - {own}
    wrong = {name for name in used if FLOOR[name] >= FLOOR[own] and (own, name) not in BESIDE}
    assert not wrong, f"{file} imports {wrong}"
    assert "kernels" not in used or own in {"training", "cli"}


def test_there_are_no_circles() -> None:
    """Faces only hand names on: whoever imports from a chapter imports from the file behind its face."""
    arrows = {module(file): own_modules(file) for file in FILES if file.name != "__init__.py"}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in arrows.get(name, ()):
                visit(other, (*path, name))
            done.add(name)

    for name in arrows:
        visit(name, ())


def test_no_module_uses_a_private_name_of_another() -> None:
    """Neither an attribute that another module writes, nor an import with an underscore."""
    written: dict[str, set[Path]] = {}
    read: list[tuple[str, Path, int]] = []
    for file, text in FILES.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dense_xp"):
                wrong = [alias.name for alias in node.names if alias.name[0] == "_" and alias.name != "__version__"]
                assert not wrong, f"{file}:{node.lineno} imports {wrong}"
            elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                mine = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                if mine:
                    written.setdefault(node.attr, set()).add(file)
                else:
                    read.append((node.attr, file, node.lineno))
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                written.setdefault(node.name, set()).add(file)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                written.setdefault(node.target.id, set()).add(file)
    abroad = [f"{file}:{line} .{name}" for name, file, line in read if file not in written.get(name, {file})]
    assert not abroad, abroad


@pytest.mark.parametrize("file", IN_KERNELS, ids=str)
def test_kernels_know_arrays_alone_and_one_library_each(file: Path) -> None:
    used = imports(file)
    assert all(name.startswith("dense_xp.kernels") for name in used if name.startswith("dense_xp"))
    assert {name.partition(".")[0] for name in used} & ARRAY_LIBRARIES <= {file.stem.partition("_")[0]}


@pytest.mark.parametrize("file", IN_INTEROP, ids=str)
def test_each_way_across_knows_one_library(file: Path) -> None:
    """It is named where it is needed, and nowhere at the head of a file."""
    assert {name.partition(".")[0] for name in imports(file)} & HEAVY == set()
    asked = {
        node.args[0].value.partition(".")[0]
        for node in ast.walk(_without_docstrings(file))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "imported"
    }
    assert asked == OTHERS.get(file.stem, set())


@pytest.mark.parametrize("file", [file for file in FILES if chapter(file) not in ("kernels", "interop")], ids=str)
def test_array_libraries_are_named_in_the_backend_alone(file: Path) -> None:
    named = {name.partition(".")[0] for name in imports(file)} & ARRAY_LIBRARIES
    assert not named, f"{file} imports {named}"
    if chapter(file) != "backend":
        strings = {node.value for node in ast.walk(_without_docstrings(file)) if isinstance(node, ast.Constant)}
        assert not strings & ARRAY_LIBRARIES, f"{file} names {strings & ARRAY_LIBRARIES}"


def _without_docstrings(file: Path) -> ast.Module:
    tree = ast.parse(FILES[file])
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)
    return tree


def test_the_import_is_light() -> None:
    """NumPy and array-api-compat, and no other array library, also where those are installed."""
    code = (
        "import sys\nfrom dense_xp import *\n"
        f"print(*sorted({{name.partition('.')[0] for name in sys.modules}} & {HEAVY}))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    assert done.stderr == ""


def test_the_import_brings_nothing_that_few_programs_need() -> None:
    rare = {"numpy.random", "concurrent.futures", "logging", "html", "dense_xp.tables", "dense_xp.training.distributed"}
    code = f"import sys; from dense_xp import Dense, Sequential; print(*sorted(set(sys.modules) & {rare}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert done.stdout.split() == []


def test_the_ways_across_are_imported_when_they_are_asked_for() -> None:
    code = (
        "import sys, dense_xp; a = 'dense_xp.interop' in sys.modules; import dense_xp.interop; print(a, *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    early, *loaded = done.stdout.split()
    assert early == "False"
    assert not set(loaded) & HEAVY


def test_the_package_itself_brings_nothing_before_a_name_is_asked_for() -> None:
    code = "import sys, dense_xp; print('numpy' in sys.modules, dense_xp.Dense.__name__, dense_xp.layers.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert done.stdout.split() == ["False", "Dense", "dense_xp.layers"]


def test_type_checkers_are_told_of_the_same_names() -> None:
    told = {}
    for node in ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            told |= {alias.asname: (node.module, alias.name) for alias in node.names}
    assert set(told) == set(dense_xp.__all__)
    for own, (where, name) in told.items():
        assert own == name
        assert getattr(dense_xp, own) is getattr(importlib.import_module(str(where)), name)


def test_the_public_names_are_all_there() -> None:
    assert set(dense_xp.__all__) <= set(dir(dense_xp))
    with pytest.raises(AttributeError, match="nope"):
        getattr(dense_xp, "nope")  # noqa: B009
    assert len(set(dense_xp.__all__)) == len(dense_xp.__all__)
    for name in dense_xp.__all__:
        assert getattr(dense_xp, name).__doc__
