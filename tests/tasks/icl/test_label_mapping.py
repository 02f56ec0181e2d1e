"""The made-up tasks: labels follow the map of their sequence, and samples are what their number says."""

import numpy as np
import pytest
import torch

from tasks.data.tokenizers import load_tokenizer
from tasks.icl.label_mapping import LabelMapping


def family(**options) -> LabelMapping:
    return LabelMapping(**{"context_length": 40, "batch_size": 8, **options})


@pytest.mark.parametrize("maps", [8, None])
def test_labels_follow_one_map_in_each_sequence(maps):
    data = family(maps=maps)
    batch = data.batch(np.arange(32))
    tokens = torch.cat((batch["tokens_BT"], batch["targets_BT"][:, -1:]), 1)
    assert tokens.shape == (32, 40) and torch.equal(tokens[:, 1:], batch["targets_BT"])
    maps_seen = set()
    for row in tokens.tolist():
        assert row[0] == 0
        found: dict[int, int] = {}
        for filler, symbol, label in np.reshape(row[1:], (-1, 3)).tolist():
            assert 17 <= filler < 21 and 1 <= symbol < 17 and 21 <= label < 25
            group = int(data.group_of[symbol - 1])
            assert found.setdefault(group, label) == label
        maps_seen.add(tuple(sorted(found.items())))
    if maps is None:
        assert len(maps_seen) > 8
    else:
        pool = [{g: int(y) + 21 for g, y in enumerate(m)} for m in data.pool]
        assert all(any(dict(m).items() <= p.items() for p in pool) for m in maps_seen)


def test_a_sample_is_a_function_of_seed_and_number():
    """Resumed, on more ranks, or in other batches: the same samples."""
    data = family(seed=3)
    whole = data.batch(np.arange(12))["tokens_BT"]
    assert torch.equal(data.batch(np.array([7, 2]))["tokens_BT"], whole[[7, 2]])
    assert not torch.equal(family(seed=4).batch(np.arange(12))["tokens_BT"], whole)
    first, second = (next(iter(data.train_dataloader())) for _ in range(2))
    assert torch.equal(first["tokens_BT"], second["tokens_BT"])
    data.load_state_dict({"samples_seen": 4, "global_step": 1})
    assert torch.equal(next(iter(data.train_dataloader()))["tokens_BT"], whole[4:])
    held_out = [next(iter(loader))["tokens_BT"] for loader in (data.val_dataloader(), data.test_dataloader())]  # fmt: skip
    assert not torch.equal(held_out[0], held_out[1])
    assert torch.equal(next(iter(family().val_dataloader()))["tokens_BT"], held_out[0])


def test_episodes_are_answered_by_their_demonstrations():
    """Distinct symbols shown, all asked, "dev" and "test" apart, the same at every call."""
    for maps in (8, None):
        data = family(maps=maps, test_episodes=5, dev_episodes=2)
        episodes = data.episodes("test")
        assert len(episodes) == 5 and len(data.episodes("dev")) == 2
        assert episodes == data.episodes("test") != data.episodes("dev")
        for episode in episodes:
            symbols = [d.question[-1] for d in episode.demonstrations]
            assert len(set(symbols)) == 12 and len(episode.queries) == 16
            known = {int(data.group_of[d.question[-1] - 1]): d.gold for d in episode.demonstrations}
            for query in episode.queries:
                group = int(data.group_of[query.question[-1] - 1])
                assert known.get(group, query.gold) == query.gold
            assert maps is not None or len(set(known.values())) == len(known)


def test_symbols_travel_with_a_run(tmp_path):
    tokenizer = family().tokenizer
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.names == tokenizer.names and loaded.vocab_size == 25
    assert loaded.decode(loaded.encode("<s> f0 x3 y1")) == "<s> f0 x3 y1"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"context_length": 30}, "give model.context_length=40"),
        ({"demonstrations": 17}, "demonstrations: 17 of 16"),
        ({"labels": 1}, "labels: must be at least 2"),
        ({"maps": 0}, "maps: must be at least 1"),
        ({"batch_size": 0}, "batch_size: must be at least 1"),
    ],
)
def test_what_cannot_be_made_is_named(options, says):
    with pytest.raises(ValueError, match=says):
        family(**options)
