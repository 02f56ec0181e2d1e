"""Two ideas around the paper: reading the period off the activations, and routing between periods.

    probe      a linear classifier from the base model's mean activation of a text to its period
    routing    p(token) = sum_i w_i(context) p_i(token),   w(context) = softmax of each model's log-likelihood
               of the tokens before, discounted: models that have explained the text so far get the say

Routing needs no label of the period and no training: it is a mixture of experts whose gate is Bayes'
rule with forgetting.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.time_vectors.study import ROWS, Study
from tasks.time_vectors.task import batch_loss

WINDOWS = 256  # of each period


@torch.no_grad()
def _activations(study: Study, period: str, split: str) -> Tensor:
    """Mean of the final hidden states of each window (windows, width)."""
    dataset = study.data.of_period(period, split)
    count = min(WINDOWS, len(dataset.tokens) // dataset.context_length - 1)
    batch = dataset.at(np.arange(count) * dataset.context_length)
    hidden = study.model.hidden(batch["tokens_BT"], documents_BT=batch.get("documents_BT"))  # type: ignore[operator]
    return hidden.mean(1)


def probe(study: Study, *, decay: float = 1e-2, steps: int = 300) -> dict[str, Any]:
    """Accuracy of reading the period off the base model's activations, on test text.

    Trained on training text by full-batch Adam on the cross-entropy, with weight decay. Also the mean
    error in periods, and what guessing gives of each.
    """
    study.set({})
    parts = [[_activations(study, p, split) for p in study.labels] for split in ("train", "test")]
    (X, y), (X_test, y_test) = (
        (torch.cat(p), torch.cat([torch.full((len(x),), i) for i, x in enumerate(p)]))
        for p in parts
    )
    mean, deviation = X.mean(0), X.std(0) + 1e-6
    X, X_test = (X - mean) / deviation, (X_test - mean) / deviation
    n = len(study.labels)
    linear = torch.nn.Linear(X.shape[1], n)
    torch.nn.init.zeros_(linear.weight)
    optimizer = torch.optim.AdamW(linear.parameters(), lr=0.03, weight_decay=decay)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(linear(X), y).backward()
        optimizer.step()
    with torch.no_grad():
        guess = linear(X_test).argmax(1)
    away = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    return {
        "accuracy": float((guess == y_test).float().mean()),
        "chance": 1 / n,
        "error": float((guess - y_test).abs().float().mean()),
        "chance error": float(away.mean(1).min()),
    }


@torch.no_grad()
def routing(study: Study, *, memory: float = 0.97) -> dict[str, Any]:
    """Test losses, mean over the periods: routed per token, an even mixture of the predictions, the model
    of the right period, and the uniform soup. memory: what a token's evidence is worth one later."""
    if not 0 <= memory <= 1:
        raise ValueError(f"memory: must be in [0, 1], got {memory}")
    totals = {"routed": 0.0, "even mixture": 0.0, "right period": 0.0}
    weight_right = 0.0
    for number, period in enumerate(study.labels):
        logs_MBT, valid_BT = _log_likelihoods(study, period)
        gates_MBT = gate(logs_MBT * valid_BT, memory)
        count = valid_BT.sum()
        mixed = torch.logsumexp(logs_MBT + gates_MBT, 0)
        even = torch.logsumexp(logs_MBT, 0) - np.log(len(study.labels))
        totals["routed"] -= float((mixed * valid_BT).sum() / count)
        totals["even mixture"] -= float((even * valid_BT).sum() / count)
        totals["right period"] -= float((logs_MBT[number] * valid_BT).sum() / count)
        weight_right += float((gates_MBT[number].exp() * valid_BT).sum() / count)
    n = len(study.labels)
    found: dict[str, Any] = {name: total / n for name, total in totals.items()}
    uniform = {label: 1 / n for label in study.labels}
    found["uniform soup"] = float(study.losses(uniform).mean())
    return found | {"gate on the right period": weight_right / n}


def gate(logs_MBT: Tensor, memory: float) -> Tensor:
    """Log weights (M, B, T) of the models at each token, from the tokens before it alone.

    e_t = memory e_{t-1} + log p(token t);  gate_t = log softmax e_{t-1};  even at the first token.
    """
    evidence = torch.zeros_like(logs_MBT[:, :, 0])
    gates = []
    for t in range(logs_MBT.shape[2]):
        gates.append(torch.log_softmax(evidence, 0))
        evidence = memory * evidence + logs_MBT[:, :, t]
    return torch.stack(gates, 2)


def _log_likelihoods(study: Study, period: str) -> tuple[Tensor, Tensor]:
    """Each period model's log-likelihood of each target (M, B, T), and which targets count (B, T)."""
    dataset = study.data.of_period(period, "test")
    logs = []
    for label in study.labels:
        study.set({label: 1.0})
        rows = []
        for first in range(0, len(dataset), ROWS):
            batch = dataset.batch(np.arange(first, min(first + ROWS, len(dataset))))
            rows.append(batch_loss(study.model, batch)[1])
        logs.append(-torch.cat(rows).float())
    everything = dataset.batch(np.arange(len(dataset)))
    return torch.stack(logs), everything["targets_BT"] != -100
