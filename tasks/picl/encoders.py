"""Texts to vectors: the zoo's own encoder over the data's tokenizer, or any encoder of transformers.

Both are a network and what cuts texts into its tokens, so that training, search and saving treat them
alike. Texts are encoded in batches of similar length.
"""

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tasks.data.tokenizers import Tokenizer
from zoo.encoder import Encoder


class TextEncoder(nn.Module, ABC):
    """A network over texts. width: of its vectors. max_tokens: texts are cut there."""

    width: int
    max_tokens: int

    @abstractmethod
    def tokens(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, cut to `max_tokens`, at least one."""

    @abstractmethod
    def vectors(self, ids: Sequence[np.ndarray]) -> Tensor:
        """(B, D), differentiable."""

    def forward(self, texts: Sequence[str]) -> Tensor:
        return self.vectors(self.tokens(texts))

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], *, tokens_per_batch: int = 16384) -> np.ndarray:
        """(n, D) float32, in the order of the texts; the network is used in eval mode."""
        ids = self.tokens(texts)
        found = np.empty((len(ids), self.width), dtype=np.float32)
        was, _ = self.training, self.eval()
        for rows in by_length([len(i) for i in ids], tokens_per_batch):
            found[rows] = self.vectors([ids[i] for i in rows]).float().cpu().numpy()
        self.train(was)
        return found

    def fingerprint(self) -> str:
        """Hash of all weights."""
        content = hashlib.blake2b(digest_size=16)
        for name, tensor in sorted(self.state_dict().items()):
            content.update(name.encode())
            content.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
        return content.hexdigest()


def by_length(lengths: Sequence[int], tokens_per_batch: int) -> Iterator[np.ndarray]:
    """Rows of similar length together, as many as fill a batch when padded; at least one."""
    order = np.argsort(lengths, kind="stable")[::-1]  # the longest first: what does not fit shows
    start = 0
    while start < len(order):
        size = max(1, tokens_per_batch // max(1, int(lengths[order[start]])))
        yield order[start : start + size]
        start += size


def padded(ids: Sequence[np.ndarray], pad: int = 0) -> tuple[Tensor, Tensor]:
    """Right-padded tokens (B, T) int64 and their lengths (B,)."""
    lengths = torch.tensor([len(row) for row in ids])
    tokens_BT = torch.full((len(ids), int(lengths.max())), pad, dtype=torch.long)
    for b, row in enumerate(ids):
        tokens_BT[b, : len(row)] = torch.from_numpy(row.astype(np.int64))
    return tokens_BT, lengths


class ZooTextEncoder(TextEncoder):
    """`zoo.encoder.Encoder` over the tokenizer of the data."""

    def __init__(self, net: Encoder, tokenizer: Tokenizer):
        super().__init__()
        self.net, self.tokenizer = net, tokenizer
        self.width, self.max_tokens = net.width, net.context_length

    def tokens(self, texts: Sequence[str]) -> list[np.ndarray]:
        empty = np.zeros(1, dtype=self.tokenizer.dtype)
        ids = self.tokenizer.encode_batch(list(texts))
        return [row[: self.max_tokens] if len(row) else empty for row in ids]

    def vectors(self, ids: Sequence[np.ndarray]) -> Tensor:
        tokens_BT, lengths_B = padded(ids)
        device = self.net.embedding.weight.device
        same = bool((lengths_B == lengths_B[0]).all())
        return self.net(tokens_BT.to(device), None if same else lengths_B.to(device))


class HubTextEncoder(TextEncoder):
    """An encoder of transformers: `AutoModel` and `AutoTokenizer` of a name or folder.

    pooling: mean over the tokens, first (the raw vector of the first token), or pooler (BERT's and
    RoBERTa's dense layer and tanh over it: what PICL's released model uses).
    """

    def __init__(
        self,
        *,
        name: str,
        revision: str | None = None,
        pooling: Literal["mean", "first", "pooler"] = "pooler",
        max_tokens: int = 256,
    ):
        super().__init__()
        from transformers import AutoModel, AutoTokenizer

        if pooling not in ("mean", "first", "pooler"):
            raise ValueError(f"pooling: must be mean, first or pooler, got {pooling!r}")
        try:
            self.net = AutoModel.from_pretrained(name, revision=revision)
            self.cut = AutoTokenizer.from_pretrained(name, revision=revision)
        except (OSError, ValueError) as error:
            line = " ".join(str(error).split())[:200]
            raise ValueError(f"name: {name} cannot be loaded as an encoder ({line})") from error
        if pooling == "pooler" and getattr(self.net, "pooler", None) is None:
            raise ValueError(f"pooling: {name} has no pooler; use mean or first")
        self.pooling, self.max_tokens = pooling, max_tokens
        self.width = self.net.config.hidden_size

    def tokens(self, texts: Sequence[str]) -> list[np.ndarray]:
        ids = self.cut(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
        return [np.asarray(row if len(row) else [0]) for row in ids]

    def vectors(self, ids: Sequence[np.ndarray]) -> Tensor:
        tokens_BT, lengths_B = padded(ids, self.cut.pad_token_id or 0)
        mask_BT = torch.arange(tokens_BT.shape[1]) < lengths_B[:, None]
        device = self.net.device
        mask_BT = mask_BT.to(device)
        out = self.net(input_ids=tokens_BT.to(device), attention_mask=mask_BT)
        if self.pooling == "pooler":
            return out.pooler_output
        hidden_BTC = out.last_hidden_state
        if self.pooling == "first":
            return hidden_BTC[:, 0]
        return (hidden_BTC * mask_BT[..., None]).sum(1) / mask_BT.sum(1, keepdim=True)


def zoo_encoder(*, net: Callable[..., Encoder]) -> Callable[[Tokenizer], TextEncoder]:
    """What a config names for the zoo's own encoder; it still waits for the data's tokenizer."""
    return functools.partial(_zoo, net)


def _zoo(net: Callable[..., Encoder], tokenizer: Tokenizer) -> TextEncoder:
    return ZooTextEncoder(net(vocab_size=tokenizer.vocab_size), tokenizer)


def hub_encoder(
    *,
    name: str,
    revision: str | None = None,
    pooling: Literal["mean", "first", "pooler"] = "pooler",
    max_tokens: int = 256,
) -> Callable[[Tokenizer], TextEncoder]:
    """What a config names for an encoder of transformers, which brings its own tokenizer."""
    settings = dict(name=name, revision=revision, pooling=pooling, max_tokens=max_tokens)
    return functools.partial(_hub, settings)


def _hub(settings: dict[str, Any], tokenizer: Tokenizer) -> TextEncoder:
    return HubTextEncoder(**settings)


def save(encoder: TextEncoder, folder: Path) -> None:
    """The weights alone: what they belong to is in the key of the stage that keeps them."""
    from safetensors.torch import save_model

    save_model(encoder, str(folder / "encoder.safetensors"))


def load(encoder: TextEncoder, folder: Path) -> None:
    """Weights of `save` into an encoder built the same way."""
    from safetensors.torch import load_model

    load_model(encoder, str(folder / "encoder.safetensors"))
