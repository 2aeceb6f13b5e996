"""Models in files: the format, and a callback that writes it."""

import dense_xp.training.sequential  # noqa: F401  files name its class
from dense_xp.saving.checkpoint import Checkpoint
from dense_xp.saving.model_files import ModelFileError, describe, load, save

__all__ = ["Checkpoint", "ModelFileError", "describe", "load", "save"]
