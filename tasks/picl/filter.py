"""Which groups of paragraphs are worth training on: does reading them together help?

    s = mean(NLL alone) - mean(NLL concatenated)        kept where s > delta

both means over the tokens that are scored in both passes: not padding, and not the first token of a
paragraph, which has nothing before it when it stands alone. That is what PICL's released code computes
(Gu et al. 2023, Eq. 3, divides by the whole length instead). Alone, each paragraph is a row of its own,
so its positions start anew; concatenated, it is read in the order in which it is trained.

Shapes: N groups, T tokens; NLL in nats, float32.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tasks.data.progress import progress
from tasks.data.stage import stage
from tasks.data.tokenizers import Tokenizer
from tasks.errors import UserError
from tasks.picl.encoders import by_length, padded
from zoo.load import load_run

if TYPE_CHECKING:
    from tasks.picl.groups import Retrieved

_GROUPS_A_STAGE = 4096


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


class Filter:
    """Keeps the groups that score above `delta` under a language model.

    scorer: the folder of a trained run with the same tokenizer, or a checkpoint of transformers (a
        folder or a name on the Hub; published: GPT-2 large). It must have learned to use its context
        to some degree, or nothing passes.
    delta: published 0. most: groups above are dropped as well (near-copies score high); None: none.
    """

    def __init__(
        self,
        *,
        scorer: str,
        checkpoint: str = "best",
        delta: float = 0.0,
        most: float | None = None,
        batch_size: int = 64,
        device: str = "cpu",
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size: must be at least 1, got {batch_size}")
        if most is not None and most <= delta:
            raise ValueError(f"most: must be above delta={delta}, got {most}")
        self.scorer, self.checkpoint, self.device = scorer, checkpoint, device
        self.delta, self.most, self.batch_size = delta, most, batch_size

    def keep(self, groups: "Retrieved", named: str, cache_dir: Path) -> np.ndarray:
        """The queries whose groups stay; scores are a stage, a few thousand groups at a time."""
        scores = self.scores(groups, named, cache_dir)
        kept = scores > self.delta
        if self.most is not None:
            kept &= scores <= self.most
        return np.asarray(groups.queries)[kept]

    def model(self, tokenizer: Tokenizer) -> Any:
        """The scorer, in eval mode. Raises UserError where its tokenizer is another."""
        if (Path(self.scorer) / "metrics.csv").is_file():
            run = load_run(self.scorer, checkpoint=self.checkpoint, device=self.device)
            if run.tokenizer.fingerprint != tokenizer.fingerprint:
                raise UserError(
                    f"filter.scorer: {self.scorer} has another tokenizer than this run; give a run "
                    "trained on the same data with the same tokenizer"
                )
            return run.model
        from zoo.hf import load_pretrained

        model = load_pretrained(self.scorer).to(self.device)
        if tokenizer.vocab_size > model.vocab_size:
            raise UserError(
                f"filter.scorer: {self.scorer} knows {model.vocab_size} ids and this run's tokenizer "
                f"has {tokenizer.vocab_size}; use tokenizer=hf tokenizer.name={self.scorer}"
            )
        return model

    def scores(self, groups: "Retrieved", named: str, cache_dir: Path) -> np.ndarray:
        """The score of every group, float32."""
        model = self.model(groups.tokenizer)
        weights = fingerprint(model)
        found = []
        with progress("filtering", len(groups.queries)) as advance:
            for start in range(0, len(groups.queries), _GROUPS_A_STAGE):
                queries = np.asarray(groups.queries[start : start + _GROUPS_A_STAGE])
                key = {"groups": named, "scorer": weights, "start": start, "size": len(queries)}

                def build(folder: Path, queries: np.ndarray = queries) -> None:
                    parts = [
                        score(model, groups, queries[i : i + self.batch_size])
                        for i in range(0, len(queries), self.batch_size)
                    ]
                    np.save(folder / "scores.npy", np.concatenate(parts))

                folder = stage(cache_dir, "picl-filter", key, build)
                found.append(np.load(folder / "scores.npy"))
                advance(len(queries))
        return np.concatenate(found)


def fingerprint(model: Any) -> str:
    """Hash of a model's weights."""
    content = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        content.update(name.encode())
        content.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return content.hexdigest()


@torch.inference_mode()
def score(model: Any, groups: "Retrieved", queries: np.ndarray) -> np.ndarray:
    """Informativeness of the groups of some queries; every different paragraph is read alone once."""
    members = [groups.members(int(q)) for q in queries]
    device = next(model.parameters()).device
    alone: dict[int, Tensor] = {}
    different = sorted({i for group in members for i in group})
    parts = {i: groups.part(i) for i in different}
    for rows in by_length([len(parts[i]) for i in different], 16384):
        some = [different[r] for r in rows]
        for i, nll in zip(some, token_losses(model, [parts[i] for i in some], device)):
            alone[i] = nll[: len(parts[i])]
    whole = [np.concatenate([parts[i] for i in group]) for group in members]
    longest = max(map(len, whole))
    together_NT = token_losses(model, whole, device)
    alone_NT = torch.zeros(len(members), longest)
    valid_NT = torch.zeros(len(members), longest, dtype=torch.bool)
    first_NT = torch.zeros_like(valid_NT)
    for n, group in enumerate(members):
        place = 0
        for i in group:
            first_NT[n, place] = True
            alone_NT[n, place : place + len(parts[i])] = alone[i]
            place += len(parts[i])
        valid_NT[n, :place] = True
    return informativeness(alone_NT, together_NT, valid_NT, first_NT).numpy()


def token_losses(model: Any, rows: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """NLL of every token given those before it, (N, T) float32; the first of a row has 0."""
    tokens_NT, lengths_N = padded(rows)
    targets_NT = tokens_NT.masked_fill(torch.arange(tokens_NT.shape[1]) >= lengths_N[:, None], -100)
    found = torch.zeros(tokens_NT.shape)
    if tokens_NT.shape[1] > 1:
        inputs, targets = tokens_NT[:, :-1].contiguous(), targets_NT[:, 1:].contiguous()
        found[:, 1:] = model.loss(inputs.to(device), targets.to(device))[1].float().cpu()
    return found
