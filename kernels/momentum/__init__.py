"""Strictly causal geometric sums of value vectors: `op.momentum`."""
