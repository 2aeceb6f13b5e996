"""``python -m dense_xp``."""

import sys

from dense_xp.cli import main

if __name__ == "__main__":  # so that reading this module, as tools do, runs nothing
    sys.exit(main())
