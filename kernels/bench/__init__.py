"""How fast the operations are, as ratios measured in one run: `python -m kernels.bench`."""
