"""The reference writes itself: a directive that documents the public names of some modules.

    ```{public} dense activations
    ```

is a table of what ``dense_xp`` exports from these modules, and then each of those names in full. A name that is added
to ``dense_xp.__all__`` so appears by itself.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

import dense_xp


def public_names(module: ModuleType) -> tuple[str, list[str]]:
    """Return from where the public names of a module are imported, and these names, in their order there.

    They are those that ``dense_xp`` exports; of a module from which it exports nothing, those in its own
    ``__all__``, or else all without an underscore.
    """
    own = [
        name
        for name, value in vars(module).items()
        if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == module.__name__
    ]
    if exported := [name for name in own if name in dense_xp.__all__]:
        return "dense_xp", exported
    return module.__name__, [name for name in own if name in getattr(module, "__all__", own) and name[0] != "_"]


class Public(SphinxDirective):
    """A table of names, and each in full."""

    required_arguments = 1
    optional_arguments = 20

    def run(self) -> list[nodes.Node]:
        """Write it as reStructuredText, and let Sphinx read that."""
        modules = [importlib.import_module(f"dense_xp.{name}") for name in self.arguments]
        for module in modules:
            self.env.note_dependency(str(module.__file__))
        table, entries = [".. currentmodule:: dense_xp", "", ".. autosummary::", "   :nosignatures:", ""], []
        for module, (home, names) in zip(modules, map(public_names, modules), strict=True):
            table += [f"   ~{home}.{name}".replace("~dense_xp.", "~") for name in names]
            entries += [f".. py:module:: {module.__name__}", "", f".. currentmodule:: {home}", ""]
            for name in names:
                kind = "class" if inspect.isclass(getattr(sys.modules[home], name)) else "function"
                storeys = ["   :inherited-members: object"] if name == "Layer" else []  # it stands on four others
                entries += [f".. auto{kind}:: {name}", *storeys, ""]
        return self.parse_text_to_nodes("\n".join(["```{eval-rst}", *table, "", *entries, "```"]))


PUBLIC = {*dense_xp.__all__, "DenseEstimator"}


def _skip_what_a_base_documents(app: Any, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Leave out methods that override one of a base class, which is documented there, and those of other packages."""
    if not (getattr(value, "__module__", None) or "dense_xp").startswith("dense_xp"):
        return True
    owner = getattr(inspect.getmodule(value), getattr(value, "__qualname__", "").partition(".")[0], None)
    if inspect.isclass(owner) and any(name in vars(base) for base in owner.__mro__[1:] if base.__name__ in PUBLIC):
        return True
    return None


def _names_are_no_list(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Keep ``.. [1] V. Nair`` from being read as point V of a list."""
    lines[:] = [re.sub(r"^( *\.\. \[\d+\] )(?=[A-Z]\. )", r"\1\\", line) for line in lines]


def setup(app: Any) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("public", Public)
    app.connect("autodoc-skip-member", _skip_what_a_base_documents)
    app.connect("autodoc-process-docstring", _names_are_no_list, priority=100)  # before numpydoc
    return {"parallel_read_safe": True, "parallel_write_safe": True}
