"""Token mixers, one class a file; each owns its projections and wraps an operation of `kernels`."""
