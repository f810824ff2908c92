"""How a missing value is made from true ones."""
