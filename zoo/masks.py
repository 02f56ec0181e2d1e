"""Which of the model's own past a position sees, chosen by name; the intervals are the kernels'.

A model is given one of these; packed documents narrow it further, batch by batch.
"""

from kernels.attention import masks


def causal(*, context_length: int) -> masks.Mask:
    """Everything up to and including the position itself."""
    return masks.causal()


def sliding_window(*, context_length: int, window: int | None = None) -> masks.Mask:
    """The last `window` positions, by default as many as were trained."""
    return masks.sliding_window(context_length if window is None else window)


def blockwise_causal(*, context_length: int, block: int | None = None) -> masks.Mask:
    """Own block and the one before (LeX, arXiv 2212.10554 §3.3), by default half of the training
    length: the same as causal up to `context_length`, and never a distance beyond it."""
    if block is None:
        if context_length % 2:
            raise ValueError(
                f"context_length: blockwise causal attention halves it, so {context_length} "
                "must be even (or give model.mask.block)"
            )
        block = context_length // 2
    return masks.blockwise_causal(block)
