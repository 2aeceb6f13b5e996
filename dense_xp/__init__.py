"""The fully connected layer on every array library: the same code, the same numbers."""

__version__ = "0.1.0"
