"""Evidence of accuracy and speed: error bounds, parity, benchmark, demo."""
