"""The extrapolation task: language modelling at N, then every measurement of how it reads further.

Training is that of `tasks.lm`, batch for batch. The test adds to `test/loss` and its kin

    test/ppl@L  test/bits_per_byte@L  test/late_ppl@L          L = N/4 .. 16N
    test/resolution@L  _heads@L  _zero@L  test/monotone@L      L = N, 2N: heads pooled with the tail
                                    dropped; mean over heads; tail counted as zero; share that falls
    test/resolution_scheme@L        of the position scheme's own curve, nothing learned but its own
    test/translation_change         largest change in nats when a text is shifted by padding
    test/ppl_ratio                  worst perplexity beyond N over that at N
    test/score_tokens_per_s@L  test/generate_tokens_per_s@L  test/*_memory_mb@L        with `speed`

and the same with +bca, +window, ... after L under each mask of `masks` (`test/ppl_ratio@bca`). The
column without a suffix is full causal attention for every model, whatever `model.mask` says (a model
that carries a blockwise mask, such as xpos, included). Where the scheme is not defined at L (a table
of learned positions that ends before) there is no value. Curves by position and by distance go to
series.json, pictures to plots/.
"""

from collections.abc import Callable, Mapping
from typing import Any

from kernels.attention.masks import Mask, causal
from tasks.data.datamodule import TextData
from tasks.extrapolation.findings import Findings
from tasks.extrapolation.invariance import translation_change
from tasks.extrapolation.perplexity import measure
from tasks.extrapolation.scores import expected_scores, scheme_curve
from tasks.extrapolation.spans import Spans, read_spans
from tasks.extrapolation.speed import measure_speed
from tasks.lm import LanguageModeling
from zoo.decoder import Decoder

FACTORS = (0.25, 0.5, 1, 2, 4, 8, 16)


class Extrapolation(LanguageModeling):
    """Trains as LanguageModeling; its test reads the same held-out tokens at many lengths.

    lengths: to read at, divisors of the longest; None: N/4 to 16N by factors of two.
    masks: suffix -> mask constructor, called with `context_length`; full causal is always there.
    spans_per_document: the first ones of each document (the paper: 1); None: all, from anywhere.
    texts: data whose test split is read in place of that of the run's data.
    tokens_per_batch: in one forward pass of the evaluation.
    resolution_lengths: where attention is looked at, on `resolution_texts` texts; None: N and 2N.
    speed: measure tokens per second and memory too, at `speed_lengths` (None: N and beyond).

    How many tokens are read is the data's affair: its `max_eval_tokens`.
    """

    model: Decoder

    def __init__(
        self,
        *,
        lengths: list[int] | None = None,
        masks: Mapping[str, Callable[..., Mask]] | None = None,
        spans_per_document: int | None = None,
        tokens_per_batch: int = 16384,
        resolution_lengths: list[int] | None = None,
        resolution_texts: int = 32,
        speed: bool = True,
        speed_lengths: list[int] | None = None,
        texts: TextData | None = None,
        **shared: Any,
    ):
        super().__init__(**shared)
        for name, value in (
            ("spans_per_document", spans_per_document),
            ("tokens_per_batch", tokens_per_batch),
            ("resolution_texts", resolution_texts),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
        N = self.model.context_length
        self.lengths = _lengths(lengths, N)
        longest = self.lengths[-1]
        self.resolution_lengths = _within(
            "resolution_lengths", resolution_lengths, [N, 2 * N], longest
        )
        beyond = [length for length in self.lengths if length >= N]
        self.speed_lengths = _within("speed_lengths", speed_lengths, beyond, longest)
        self.masks = {"": causal()} | {
            f"+{name}": mask(context_length=N) for name, mask in (masks or {}).items()
        }
        self.spans_per_document = spans_per_document
        self.tokens_per_batch = tokens_per_batch
        self.resolution_texts = resolution_texts
        self.speed = speed
        self.texts = texts
        self._spans: Spans | None = None
        self.findings = Findings(N)

    def on_fit_start(self) -> None:
        """Reads the spans now: a corpus without long documents must not cost a training run."""
        self.spans()

    def spans(self) -> Spans:
        """The held-out spans, read once."""
        if self._spans is None:
            own = self.trainer.datamodule  # type: ignore[attr-defined]
            data = own if self.texts is None else self.texts
            data.tokenizer = own.tokenizer  # trained on the run's text, where it had to be
            self._spans = read_spans(
                data.dataset("test"),
                longest=self.lengths[-1],
                max_tokens=data.max_eval_tokens,
                per_document=self.spans_per_document,
            )
        return self._spans

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """All within the first test step, where precision, device and sharded weights are set up."""
        super().test_step(batch, batch_idx)
        if batch_idx == 0:
            self._perplexity()
            self._resolution()
            texts = self.spans().tokens[: self.resolution_texts, :-1].to(self.device)
            self.findings.add_translation(translation_change(self.model, texts))
            if self.speed:
                self._speed()

    def results(self) -> dict[str, Any]:
        """Writes series and plots into the run's folder, prints the tables, returns the numbers."""
        if self.trainer.is_global_zero:
            self.findings.write(self.trainer.default_root_dir)
            self.findings.show()
        return self.findings.results

    def _perplexity(self) -> None:
        losses = measure(
            self.model,
            self.spans().share(self.global_rank, self.trainer.world_size),
            lengths=self.lengths,
            masks=self.masks,
            tokens_per_batch=self.tokens_per_batch,
            reduce=lambda x: self.trainer.strategy.reduce(x, reduce_op="sum"),  # type: ignore[arg-type,return-value]
        )
        self.findings.add_losses(losses)

    def _resolution(self) -> None:
        limit = self.model.max_length
        texts = self.spans().tokens[: self.resolution_texts].to(self.device)
        for length in self.resolution_lengths:
            if limit is not None and length > limit:
                continue
            for suffix, mask in self.masks.items():
                mask = mask.within(length)
                if not suffix or not mask.is_plain_causal:  # otherwise: what full causal is
                    layers = expected_scores(self.model, texts[:, :length], mask=mask)
                    self.findings.add_scores(f"{length}{suffix}", layers)
            schemes = [scheme_curve(position, length) for _, position in self.model.layers()]
            self.findings.add_schemes(length, schemes)

    def _speed(self) -> None:
        found = measure_speed(
            self.model,
            self.spans().tokens[0].to(self.device),
            lengths=self.speed_lengths,
            masks=self.masks,
        )
        self.findings.results |= found


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


def _within(name: str, given: list[int] | None, default: list[int], longest: int) -> list[int]:
    """Other lengths, checked against the spans that are read."""
    if given is None:
        return [length for length in default if length <= longest]
    for length in given:
        if not 1 <= length <= longest:
            raise ValueError(
                f"{name}: {length} is not between 1 and the longest of lengths, {longest}"
            )
    return sorted(set(given))
