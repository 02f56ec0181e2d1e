"""Something to learn in context: sequences of pairs whose labels follow a map that each draws anew.

    <s>  item label  item label  item label ...        item = fillers + symbol

Each symbol belongs to one of a few groups, fixed once and for all; a map says which label each group has
in this sequence. The label behind an item can be told from the pairs before it, and from nothing else.

    maps = 8      one of 8 maps, drawn once: the task is *recognised* (Xie et al. 2021)
    maps = null   any of labels^groups maps: the task is *learnt* (Chan et al. 2022)

Fillers are drawn at random and mean nothing: with them a query has several keys of its own.
"""

from typing import Any

import numpy as np
import torch

from tasks.icl.episodes import Episode
from tasks.icl.fewshot import Encoded
from tasks.icl.stream import Batch, MadeUp
from tasks.icl.symbols import Symbols

EPISODES = {"dev": 11, "test": 12}


class LabelMapping(MadeUp):
    """Batches of {tokens_BT, targets_BT, bytes}, T = pairs x (item_tokens + 1).

    Args:
        pairs: of a training sequence.
        demonstrations: of an episode, of distinct symbols; every symbol is a query.
        dev_episodes: to choose a learning rate on. test_episodes: to measure on.
        world: seed of what all runs share: groups and pool of maps.
    """

    def __init__(
        self,
        *,
        context_length: int,
        batch_size: int,
        seed: int = 0,
        groups: int = 4,
        symbols_per_group: int = 4,
        labels: int = 4,
        item_tokens: int = 2,
        fillers: int = 4,
        maps: int | None = 8,
        pairs: int = 13,
        demonstrations: int = 12,
        dev_episodes: int = 8,
        test_episodes: int = 24,
        eval_samples: int = 512,
        world: int = 0,
    ):
        super().__init__(batch_size=batch_size, seed=seed, eval_samples=eval_samples)
        limits = {
            "groups": groups,
            "symbols_per_group": symbols_per_group,
            "labels": labels - 1,
            "item_tokens": item_tokens,
            "fillers": fillers,
            "maps": 1 if maps is None else maps,
            "pairs": pairs,
            "demonstrations": demonstrations,
            "dev_episodes": dev_episodes,
            "test_episodes": test_episodes,
        }
        for name, value in limits.items():
            if value < 1:
                least = 2 if name == "labels" else 1
                raise ValueError(f"{name}: must be at least {least}, got {value}")
        symbols = groups * symbols_per_group
        if demonstrations > symbols:
            raise ValueError(f"demonstrations: {demonstrations} of {symbols} distinct symbols")
        pair = item_tokens + 1
        needed = max(pairs * pair, 1 + (demonstrations + 1) * pair)
        if context_length < needed:
            raise ValueError(
                f"context_length: {pairs} pairs or {demonstrations} demonstrations and a query need "
                f"{needed} tokens; give model.context_length={needed}"
            )
        self.context_length = context_length
        self.groups, self.labels, self.item_tokens, self.fillers = (
            groups,
            labels,
            item_tokens,
            fillers,
        )
        self.pairs, self.demonstrations = pairs, demonstrations
        self.counts = {"dev": dev_episodes, "test": test_episodes}
        self.world = world
        draw = np.random.default_rng(world)
        self.group_of = draw.permutation(np.repeat(np.arange(groups), symbols_per_group))
        self.pool = None if maps is None else draw.integers(labels, size=(maps, groups))
        names = ["<s>", *(f"x{i}" for i in range(symbols)), *(f"f{i}" for i in range(fillers))]
        self.tokenizer = Symbols(names=[*names, *(f"y{i}" for i in range(labels))])
        self.first_symbol, self.first_filler = 1, 1 + symbols
        self.first_label = 1 + symbols + fillers

    def map(self, draw: np.random.Generator) -> np.ndarray:
        """Label of each group."""
        if self.pool is not None:
            return self.pool[draw.integers(len(self.pool))]
        return draw.integers(self.labels, size=self.groups)

    def item(self, symbol: int, draw: np.random.Generator) -> list[int]:
        """The tokens of an item."""
        fillers = self.first_filler + draw.integers(self.fillers, size=self.item_tokens - 1)
        return [*fillers.tolist(), self.first_symbol + symbol]

    def sample(self, draw: np.random.Generator) -> np.ndarray:
        """(1 + pairs x (item_tokens + 1),) token ids."""
        labels = self.map(draw)
        symbols = draw.integers(len(self.group_of), size=self.pairs)
        fillers = draw.integers(self.fillers, size=(self.pairs, self.item_tokens - 1))
        columns = (
            self.first_filler + fillers,
            self.first_symbol + symbols[:, None],
            self.first_label + labels[self.group_of[symbols]][:, None],
        )
        return np.concatenate(([0], np.concatenate(columns, axis=1).ravel()))

    def collate(self, samples: list[Any]) -> Batch:
        tokens = torch.from_numpy(np.stack(samples))
        inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        return {"tokens_BT": inputs, "targets_BT": targets, "bytes": targets.numel()}

    def episodes(self, split: str) -> list[Episode]:
        """The episodes of "dev" or "test"; the same in every run of one world."""
        draws = (
            np.random.default_rng([self.world, EPISODES[split], i])
            for i in range(self.counts[split])
        )
        return [self._episode(draw) for draw in draws]

    def _episode(self, draw: np.random.Generator) -> Episode:
        labels = self.map(draw)
        if self.pool is None and self.groups <= self.labels:
            labels = draw.permutation(self.labels)[: self.groups]  # every group its own
        answers = [[self.first_label + i] for i in range(self.labels)]

        def example(symbol: int) -> Encoded:
            return Encoded(self.item(symbol, draw), answers, int(labels[self.group_of[symbol]]))

        order = draw.permutation(len(self.group_of))[: self.demonstrations]
        shown = [example(int(symbol)) for symbol in order]
        asked = [example(symbol) for symbol in range(len(self.group_of))]
        return Episode([0], [], shown, asked)
