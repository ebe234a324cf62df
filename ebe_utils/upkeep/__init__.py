"""Only for the checkout, not in the wheel: benchmark, committed results, publishing."""
