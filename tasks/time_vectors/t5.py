"""T5 (Raffel et al. 2019) as transformers builds it, with the two objectives of the time vectors paper.

    data.next_block    the encoder reads block i, the decoder predicts block i + 1, `context_length` tokens each
    data.examples      the encoder reads a document, the decoder writes its label or summary

Version 1.0 has ReLU networks and one embedding for everything; 1.1 gated GELU ones and, as it was
published, a head of its own. The paper's models are 1.0: t5-small, t5-large, t5-3b.

Shapes: B batch, T tokens of a block.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from kernels.attention.masks import causal
from tasks.errors import UserError


class T5(nn.Module):
    """`name`, a checkpoint of the Hub or a folder, decides everything else; without it, random weights.

    num_layers: of the encoder, and of the decoder. Ids beyond the tokenizer's are left unused.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        context_length: int = 128,
        name: str | None = None,
        version: Literal["1.0", "1.1"] = "1.0",
        num_layers: int = 6,
        width: int = 512,
        num_heads: int = 8,
        dropout: float = 0.1,
    ):
        super().__init__()
        import transformers  # takes seconds

        if width % num_heads:
            raise ValueError(f"width: {width} is not divisible by num_heads={num_heads}")
        if name is None:
            shape: dict[str, Any] = {
                "vocab_size": vocab_size,
                "d_model": width,
                "d_kv": width // num_heads,
                "d_ff": 4 * width,
                "num_layers": num_layers,
                "num_heads": num_heads,
                "dropout_rate": dropout,
                "feed_forward_proj": "relu" if version == "1.0" else "gated-gelu",
                "tie_word_embeddings": version == "1.0",
                "decoder_start_token_id": 0,
            }
            self.t5: Any = transformers.T5ForConditionalGeneration(transformers.T5Config(**shape))
        else:
            try:
                self.t5 = transformers.T5ForConditionalGeneration.from_pretrained(
                    name, dropout_rate=dropout
                )
            except (OSError, ValueError) as error:
                reason = " ".join(str(error).split())[:200]
                raise UserError(f"model.name={name}: cannot be loaded ({reason})") from error
        self.t5.train()  # what is loaded comes with its dropout switched off
        settings = self.t5.config
        if settings.vocab_size < vocab_size:
            raise ValueError(
                f"name: {name} knows {settings.vocab_size} ids, the tokenizer has {vocab_size}; "
                f"use tokenizer=hf tokenizer.name={name}"
            )
        self.vocab_size, self.context_length = vocab_size, context_length
        self.dropout = dropout
        # For the count of FLOPs: attention of the encoder, of the decoder, and between them.
        self.blocks = range(3 * settings.num_layers)
        self.width = settings.num_heads * settings.d_kv
        self.mask = causal()

    def loss(
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor,
        *,
        sources_BT: Tensor,
        documents_BT: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mean loss of the targets given what is read, and that of each, in nats.

        sources_BT: the block before, or a document; negative where there is no text. A target of -100 does
        not count. tokens_BT and documents_BT are a decoder's affair, and not looked at.
        """
        logits_BTV = self.t5(**self._sources(sources_BT), labels=targets_BT).logits
        losses_BT = nn.functional.cross_entropy(
            logits_BTV.float().mT, targets_BT, ignore_index=-100, reduction="none"
        )
        return losses_BT.sum() / (targets_BT != -100).sum().clamp(min=1), losses_BT.detach()

    def _sources(self, sources_BT: Tensor) -> dict[str, Tensor]:
        present_BT = sources_BT >= 0
        present_BT[:, -1] = True  # something to read, even at the very beginning
        pad = self.t5.config.pad_token_id or 0
        return {"input_ids": sources_BT.clamp(min=pad), "attention_mask": present_BT.long()}

    @torch.no_grad()
    def generate(self, sources_BT: Tensor, *, max_tokens: int, end: int | None = None) -> Tensor:
        """Greedy answers (B, up to max_tokens). end: the id that an answer ends with; None is T5's."""
        end = self.t5.config.eos_token_id if end is None else end
        ids_BT = self.t5.generate(
            **self._sources(sources_BT),
            max_new_tokens=max_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=end,
            pad_token_id=end,  # what stands after an end is cut off
        )
        return ids_BT[:, 1:]  # without the mark to begin with
