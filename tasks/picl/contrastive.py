"""The retriever's loss.

    L = mean_i [ -(1/|P(i)|) sum_{j in P(i)} log softmax_j(s_i) ],      s_ij = q_i . c_j / temperature

over all candidates j of the batch (own and other queries' positives, easy and hard negatives), where
P(i) are those of query i's task: the form of PICL's released code (SupCon with the mean outside of the
logarithm, Khosla et al. 2020). One positive a row gives Eq. 2 of the paper. Published: temperature 1,
raw dot products; `cosine` normalises both sides first.

    dL/dq_i = (1/N) sum_j (softmax_ij - [j in P(i)] / |P(i)|) c_j / temperature

Shapes: N queries, M candidates, D width.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def contrastive_loss(
    query_ND: Tensor,
    candidate_MD: Tensor,
    positive_NM: Tensor,
    *,
    temperature: float = 1.0,
    cosine: bool = False,
    visible_NM: Tensor | None = None,
) -> Tensor:
    """The mean over queries, a scalar in nats.

    positive_NM: True where the candidate is of the query's task; at least one a row.
    visible_NM: True where the candidate competes for the query at all, positives included; None: all.
    Raises ValueError for shapes that do not fit, and for a query without a positive.
    """
    if positive_NM.shape != (len(query_ND), len(candidate_MD)):
        raise ValueError(
            f"positive_NM: must be {(len(query_ND), len(candidate_MD))}, a row a query and a column "
            f"a candidate, got {tuple(positive_NM.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature: must be above 0, got {temperature}")
    positive_NM = positive_NM.bool()
    if not bool(positive_NM.any(dim=1).all()):
        raise ValueError("positive_NM: a query has no positive, so its loss is not defined")
    scores_NM = similarity(query_ND, candidate_MD, cosine=cosine) / temperature
    if visible_NM is not None:
        scores_NM = scores_NM.masked_fill(~(visible_NM | positive_NM), -torch.inf)
    log_NM = scores_NM.log_softmax(dim=1).masked_fill(~positive_NM, 0.0)
    return -(log_NM.sum(dim=1) / positive_NM.sum(dim=1)).mean()


def similarity(query_ND: Tensor, candidate_MD: Tensor, *, cosine: bool = False) -> Tensor:
    """Dot products (N, M), or cosines."""
    if cosine:
        query_ND, candidate_MD = normalize(query_ND, dim=-1), normalize(candidate_MD, dim=-1)
    return query_ND @ candidate_MD.T


def ranks(scores_NM: Tensor, own_N: Tensor) -> Tensor:
    """Position (N,), from 1, of each query's own positive among all candidates; ties count against."""
    own_N1 = scores_NM.gather(1, own_N[:, None])
    return (scores_NM >= own_N1).sum(dim=1)
