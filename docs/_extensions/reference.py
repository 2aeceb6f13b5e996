"""The reference writes itself: a directive that documents the public names of some modules.

    ```{public} dense activations
    ```

is a table of what ``dense_xp`` exports from these modules, and then each of those names in full. A name that is added to ``dense_xp.__all__`` so appears by itself.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

import dense_xp


def public_names(module: str) -> tuple[str, list[str]]:
    """Return from where the public names of a module are imported, and these names, in their order there.

    They are those that ``dense_xp`` exports; of a module from which it exports nothing, those in its own
    ``__all__``, or else all without an underscore.
    """
    found = importlib.import_module(f"dense_xp.{module}")
    own = [
        name
        for name, value in vars(found).items()
        if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == found.__name__
    ]
    if exported := [name for name in own if name in dense_xp.__all__]:
        return "dense_xp", exported
    return found.__name__, [name for name in own if name in getattr(found, "__all__", own) and name[0] != "_"]


class Public(SphinxDirective):
    """A table of names, and each in full."""

    required_arguments = 1
    optional_arguments = 20

    def run(self) -> list[nodes.Node]:
        """Write it as reStructuredText, and let Sphinx read that."""
        lines = ["```{eval-rst}"]
        for module in self.arguments:
            self.env.note_dependency(str(inspect.getsourcefile(importlib.import_module(f"dense_xp.{module}"))))
        for home, names in map(public_names, self.arguments):
            lines += [f".. currentmodule:: {home}", ""]
            lines += [".. autosummary::", "   :nosignatures:", "", *(f"   {name}" for name in names), ""]
        for home, names in map(public_names, self.arguments):
            lines += [f".. currentmodule:: {home}", ""]
            for name in names:
                kind = "class" if inspect.isclass(getattr(importlib.import_module(home), name)) else "function"
                lines += [f".. auto{kind}:: {name}", *(["   :members:"] if kind == "class" else []), ""]
        return self.parse_text_to_nodes("\n".join([*lines, "```"]))


def _skip_what_a_base_documents(
    app: Any, what: str, name: str, value: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out methods that override one of a base class, which is documented there."""
    owner = getattr(inspect.getmodule(value), getattr(value, "__qualname__", "").partition(".")[0], None)
    if inspect.isclass(owner) and any(name in vars(base) for base in owner.__mro__[1:] if base is not object):
        return True
    return None


def setup(app: Any) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("public", Public)
    app.connect("autodoc-skip-member", _skip_what_a_base_documents)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
