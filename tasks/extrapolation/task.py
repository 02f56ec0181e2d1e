"""The extrapolation task: language modelling at N, then every measurement of how it reads further.

Training is that of `tasks.lm`, batch for batch. The test adds to `test/loss` and its kin

    test/ppl@L  test/bits_per_byte@L  test/late_ppl@L      L = N/4 .. 16N, full causal attention
    the same with +bca, +window, ... after L               under each mask of `masks`

The column without a suffix is full causal attention for every model, whatever `model.mask` says (a
model that carries a blockwise mask, such as xpos, included). Where the scheme is not defined at L
(a table of learned positions that ends before) there is no value.
"""

from collections.abc import Callable, Mapping
from typing import Any

from kernels.attention.masks import Mask, causal
from tasks.extrapolation.perplexity import Losses, measure
from tasks.extrapolation.spans import Spans, read_spans
from tasks.lm import LanguageModeling

FACTORS = (0.25, 0.5, 1, 2, 4, 8, 16)


class Extrapolation(LanguageModeling):
    """Trains as LanguageModeling; its test reads the same held-out tokens at many lengths.

    lengths: to read at, ascending divisors of the longest; None: N/4 to 16N by factors of two.
    masks: suffix -> mask constructor, called with `context_length`; full causal is always there.
    spans_per_document: None: as many as a document has; the paper reads one of each.
    tokens_per_batch: in one forward pass of the evaluation.

    How many tokens are read is the data's affair: `data.max_eval_tokens`.
    """

    def __init__(
        self,
        *,
        lengths: list[int] | None = None,
        masks: Mapping[str, Callable[..., Mask]] | None = None,
        spans_per_document: int | None = None,
        tokens_per_batch: int = 16384,
        **shared: Any,
    ):
        super().__init__(**shared)
        N: int = self.model.context_length  # type: ignore[assignment]
        self.lengths = _lengths(lengths, N)
        self.masks = {"": causal()} | {
            f"+{name}": mask(context_length=N) for name, mask in (masks or {}).items()
        }
        for name, value in (
            ("spans_per_document", spans_per_document),
            ("tokens_per_batch", tokens_per_batch),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
        self.spans_per_document = spans_per_document
        self.tokens_per_batch = tokens_per_batch
        self._spans: Spans | None = None
        self._found: dict[str, Any] = {}

    def on_fit_start(self) -> None:
        """Reads the spans now: a corpus without long documents must not cost a training run."""
        self.spans()

    def spans(self) -> Spans:
        """The held-out spans, read once."""
        if self._spans is None:
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            self._spans = read_spans(
                data.dataset("test"),
                longest=self.lengths[-1],
                max_tokens=data.max_eval_tokens,
                per_document=self.spans_per_document,
            )
        return self._spans

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Within the first test step, where precision, device and sharded weights are set up."""
        super().test_step(batch, batch_idx)
        if batch_idx == 0:
            self._extrapolate()

    def results(self) -> dict[str, Any]:
        return self._found

    def _extrapolate(self) -> None:
        losses = measure(
            self.model,  # type: ignore[arg-type]
            self.spans().share(self.global_rank, self.trainer.world_size),
            lengths=self.lengths,
            masks=self.masks,
            tokens_per_batch=self.tokens_per_batch,
            reduce=lambda x: self.trainer.strategy.reduce(x, reduce_op="sum"),  # type: ignore[arg-type,return-value]
        )
        self._found |= self._perplexities(losses)

    def _perplexities(self, losses: dict[tuple[int, str], Losses]) -> dict[str, float]:
        N: int = self.model.context_length  # type: ignore[assignment]
        found: dict[str, float] = {}
        for (length, suffix), of in losses.items():
            at = f"{length}{suffix}"
            found[f"test/ppl@{at}"] = of.perplexity()
            found[f"test/bits_per_byte@{at}"] = of.bits_per_byte
            found[f"test/late_ppl@{at}"] = of.perplexity(last=min(length, max(1, N // 2)))
        return found


def _lengths(given: list[int] | None, N: int) -> list[int]:
    """The lengths to read at, checked: each divides the longest, so that all read the same tokens."""
    if given is None:
        lengths = sorted({int(factor * N) for factor in FACTORS if factor * N >= 1})
        lengths = [length for length in lengths if lengths[-1] % length == 0]
    else:
        lengths = sorted(set(given))
    if not lengths or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in lengths):
        raise ValueError(f"lengths: must be positive whole numbers, got {given}")
    for length in lengths:
        if lengths[-1] % length:
            raise ValueError(
                f"lengths: {length} does not divide the longest, {lengths[-1]}, so they could not "
                "read the same tokens; use divisors of it"
            )
    return lengths
