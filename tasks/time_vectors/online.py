"""One model through all periods in turn (online tuning), beside a model a period.

    theta_o(k) = tuned on period k from theta_o(k - 1),   theta_o(0) = theta_base

What it knows of each period after each: losses, and the cosines of its vector theta_o(k) - theta_base with
the periods' own. A checkpoint has had k times the steps of a period's own model, so two controls say
whether more of the same would do: that model's vector made as long as the checkpoint's, and a random
direction as long as the checkpoint is away from it.
"""

from typing import Any

import numpy as np
import torch

from tasks.time_vectors.cut import ONLINE
from tasks.time_vectors.study import Study


def online(study: Study, *, seed: int = 0) -> dict[str, Any]:
    """labels: the periods that both kinds of model were tuned on. `losses` (checkpoints, periods);
    `cosines` (checkpoints, periods), `norms` (checkpoints,). `compared`: mean losses on the period just
    read, on the one that comes next, on the very first, and on all at the end."""
    labels = [p for p in study.labels if ONLINE + p in study.online]
    columns = [study.labels.index(p) for p in labels]
    losses = np.array([study.losses({ONLINE + p: 1.0})[columns] for p in labels])
    single = np.array([study.losses({p: 1.0})[columns] for p in labels])
    X = torch.stack([study.vector(ONLINE + p) for p in labels]).double().numpy()
    Y = torch.stack([study.vector(p) for p in labels]).double().numpy()
    norms = np.linalg.norm(X, axis=1)
    cosines = X @ Y.T / np.outer(norms, np.linalg.norm(Y, axis=1))
    draw = torch.Generator().manual_seed(seed)
    longer, random = [], []
    for k, label in enumerate(labels):
        own = study.vector(label)
        study.set({label: float(norms[k] / np.linalg.norm(Y[k]))})
        longer.append(study.loss(label))
        noise = torch.randn(len(own), generator=draw)
        away = float((study.vector(ONLINE + label) - own).norm() / noise.norm())
        study.flat.copy_(study.base + own).add_(noise, alpha=away)
        random.append(study.loss(label))

    def kinds(L: np.ndarray) -> dict[str, float]:
        return {
            "own": float(np.diag(L).mean()),
            "next": float(np.diag(L, 1).mean()),
            "first": float(L[-1, 0]),
            "all": float(L[-1].mean()),
        }

    return {
        "labels": labels,
        "losses": losses,
        "cosines": cosines,
        "norms": norms,
        "compared": {
            "one after the other": kinds(losses),
            "each from the base": kinds(single),
            "each from the base, as long (control)": {"own": float(np.mean(longer))},
            "each, a random step as far (control)": {"own": float(np.mean(random))},
        },
        "peaks": [int(k) for k in cosines.argmax(0)],
    }
