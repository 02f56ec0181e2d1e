"""The two published formulas, against loops and numbers worked out by hand."""

import math

import pytest
import torch

from tasks.picl.contrastive import ranks
from tasks.picl.filter import informativeness
from tasks.picl.retriever import contrastive_loss


def loop(query, candidate, positive, temperature=1.0, cosine=False) -> float:
    """One number at a time, in float64."""
    total = 0.0
    for i, q in enumerate(query.tolist()):
        scores = []
        for c in candidate.tolist():
            dot = sum(a * b for a, b in zip(q, c))
            if cosine:
                dot /= math.hypot(*q) * math.hypot(*c)
            scores.append(dot / temperature)
        whole = math.log(sum(math.exp(s) for s in scores))
        own = [j for j, of in enumerate(positive[i].tolist()) if of]
        total += -sum(scores[j] - whole for j in own) / len(own)
    return total / len(query)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(5, 4, generator=draw, dtype=torch.float64)
    candidate = torch.randn(9, 4, generator=draw, dtype=torch.float64)
    positive = torch.rand(5, 9, generator=draw) < 0.3
    positive[torch.arange(5), torch.arange(5)] = True
    return query, candidate, positive


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.1}, {"temperature": 0.5, "cosine": True}]
)
@pytest.mark.parametrize("single", [False, True])
def test_contrastive_loss_is_the_loop(batch, options: dict, single: bool) -> None:
    """A retriever trained on another loss than the published one would be another method."""
    query, candidate, positive = batch
    if single:
        positive = torch.eye(5, 9, dtype=torch.bool)
    found = contrastive_loss(query, candidate, positive, **options)
    assert abs(found.item() - loop(query, candidate, positive, **options)) < 1e-12


def test_contrastive_loss_by_hand() -> None:
    """Scores (2, 0, 0) with two positives: the mean of the logs, not the log of the mean."""
    query = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    candidate = torch.tensor([[2.0, 5.0], [0.0, 1.0], [0.0, -3.0]], dtype=torch.float64)
    whole = math.log(math.exp(2) + 2)
    found = contrastive_loss(query, candidate, torch.tensor([[True, True, False]]))
    assert abs(found.item() - (whole - 1.0)) < 1e-12


def test_gradient_of_the_contrastive_loss(batch) -> None:
    query, candidate, positive = batch
    query.requires_grad_()
    contrastive_loss(query, candidate, positive, temperature=0.5).backward()
    softmax = (query.detach() @ candidate.T / 0.5).softmax(1)
    wanted = (
        (softmax - positive.double() / positive.sum(1, keepdim=True)) @ candidate / 0.5 / len(query)
    )
    torch.testing.assert_close(query.grad, wanted, rtol=0, atol=1e-12)


def test_hidden_candidates_do_not_compete(batch) -> None:
    """Hard negatives of other queries can be kept out; what is left is the loss over the rest."""
    query, candidate, positive = batch
    positive[:, 6:] = False
    visible = torch.ones_like(positive)
    visible[:, 6:] = False
    found = contrastive_loss(query, candidate, positive, visible_NM=visible)
    wanted = contrastive_loss(query, candidate[:6], positive[:, :6])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_contrastive_loss_refuses_what_has_no_value(batch) -> None:
    query, candidate, positive = batch
    with pytest.raises(ValueError, match="no positive"):
        contrastive_loss(query, candidate, torch.zeros_like(positive))
    with pytest.raises(ValueError, match="positive_NM: must be"):
        contrastive_loss(query, candidate, positive[:, :3])
    with pytest.raises(ValueError, match="temperature"):
        contrastive_loss(query, candidate, positive, temperature=0.0)


def test_rank_counts_all_candidates() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.2, 0.3]])
    assert ranks(scores, torch.tensor([2, 0])).tolist() == [2, 2]


def test_informativeness_by_hand() -> None:
    """Two paragraphs of 3 and 2 tokens and one pad: three tokens are scored in both passes."""
    alone = torch.tensor([[9.0, 2.0, 3.0, 9.0, 4.0, 9.0]])
    together = torch.tensor([[7.0, 1.5, 3.5, 0.5, 1.0, 7.0]])
    valid = torch.tensor([[True, True, True, True, True, False]])
    first = torch.tensor([[True, False, False, True, False, False]])
    found = informativeness(alone, together, valid, first)
    assert found.tolist() == pytest.approx([(0.5 - 0.5 + 3.0) / 3])


def test_informativeness_does_not_punish_first_tokens() -> None:
    """The naive score counts first tokens when concatenated but not alone (they have no loss there),
    so that nearly nothing would pass a threshold of 0."""
    alone = torch.tensor([[0.0, 2.0, 0.0, 2.0]])
    together = torch.tensor([[5.0, 1.9, 5.0, 1.9]])
    valid = torch.ones(1, 4, dtype=torch.bool)
    first = torch.tensor([[True, False, True, False]])
    assert informativeness(alone, together, valid, first).item() == pytest.approx(0.1)
    assert (alone - together).mean() < 0


def test_informativeness_ignores_what_is_not_scored() -> None:
    nan = float("nan")
    alone = torch.tensor([[nan, 1.0, nan], [nan, nan, nan]])
    together = torch.tensor([[nan, 0.25, 3.0], [1.0, 1.0, 1.0]])
    valid = torch.tensor([[True, True, False], [True, False, False]])
    first = torch.tensor([[True, False, False], [True, False, False]])
    assert informativeness(alone, together, valid, first).tolist() == [0.75, 0.0]
