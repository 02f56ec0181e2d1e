"""Softmax attention under any interval mask: `op.attention`, masks in `masks`."""
