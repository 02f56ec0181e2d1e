"""Which groups of paragraphs are worth training on: does reading them together help?

    s = mean(NLL alone) - mean(NLL concatenated)        kept where s > delta

both means over the tokens that are scored in both passes: not padding, and not the first token of a
paragraph, which has nothing before it when it stands alone. That is what PICL's released code computes
(Gu et al. 2023, Eq. 3, divides by the whole length instead). Alone, each paragraph is a row of its own,
so its positions start anew; concatenated, it is read in the order in which it is trained.

Shapes: N groups, T tokens; NLL in nats, float32.
"""

import torch
from torch import Tensor


def informativeness(
    nll_alone_NT: Tensor, nll_concatenated_NT: Tensor, valid_NT: Tensor, first_NT: Tensor
) -> Tensor:
    """The score of each group, (N,): nats a token that reading the group together saves.

    valid_NT: True at tokens that are not padding. first_NT: True at the first token of a paragraph.
    What the NLLs hold elsewhere (NaN included) does not matter. A group of which nothing is scored
    gets 0: nothing was learnt about it.
    """
    counted_NT = valid_NT.bool() & ~first_NT.bool()
    saved_NT = torch.where(counted_NT, nll_alone_NT - nll_concatenated_NT, 0.0)
    return saved_NT.sum(dim=-1) / counted_NT.sum(dim=-1).clamp(min=1)
