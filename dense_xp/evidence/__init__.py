"""How right and how fast it is: error bounds, parity, benchmark, demo."""
