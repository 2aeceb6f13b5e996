"""Text for messages: control characters escaped, long text cut, and the name that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable


def plain(text: str) -> str:
    r"""Return a text in which control characters, which a file may send to the terminal, are written as ``\x1b``.

    Examples
    --------
    >>> print(plain("a\x1b[31mred\n"), end="")
    a\x1b[31mred
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def brief(text: str, most: int = 400) -> str:
    """Return a text, or its beginning and how much more there is, in plain characters.

    Examples
    --------
    >>> brief("weights " * 100, 15)
    'weights weights … (785 characters more)'
    """
    return plain(text if len(text) <= most else f"{text[:most].rstrip()} … ({len(text) - most:,} characters more)")


def nearest(name: str, known: Iterable[str], cutoff: float) -> str:
    """Return the most similar known name, ignoring case; empty if none reaches the similarity `cutoff`, 0 to 1.

    Examples
    --------
    >>> nearest("Rellu", ["tanh", "relu"], 0.4)
    'relu'
    """
    import difflib  # only needed here

    spelled = {one.lower(): one for one in known}
    return next((spelled[near] for near in difflib.get_close_matches(name.lower(), spelled, 1, cutoff)), "")
