"""From the columns of a file to the numbers of a network, and back."""

from dense_xp.tables.columns import MAX_LEVELS, Category, Number, counted, free_name, some_of
from dense_xp.tables.dates import Dates
from dense_xp.tables.encoder import Encoder
from dense_xp.tables.rows import check_columns, split
from dense_xp.tables.targets import Classes, Quantity, Target, make_target, rows_with_target, task_of

__all__ = [
    "MAX_LEVELS", "Category", "Classes", "Dates", "Encoder", "Number", "Quantity", "Target", "check_columns", "counted",
    "free_name", "make_target", "rows_with_target", "some_of", "split",
    "task_of",
]  # fmt: skip
