"""Texts that may have come from a file, made fit to be shown."""

from __future__ import annotations


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
