"""T5 on periods: the next-block objective, through the shared trainer and the analyses."""

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from period_runs import sweep

from tasks.data.tokenizers import Bytes
from tasks.time_vectors.data import DatedHub
from tasks.time_vectors.study import find_studies
from tasks.time_vectors.t5 import T5

TINY = (
    "task=time_vectors",
    "data=dated_synthetic",
    "data.corpus.first_year=2010",
    "data.corpus.last_year=2011",
    "data.corpus.documents_per_month=10",
    "data.max_eval_tokens=300",
    "data.next_block=true",
    "callbacks.loss_plot=null",
    "~model.position",
    "~model.norm",
    "~model.mlp",
    "~model.mask",
    "~model.mixer",
    "~model.tie_embeddings",
    "model._target_=tasks.time_vectors.t5.T5",
    "model.context_length=16",
    "model.width=16",
    "max_steps=3",
)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_the_decoder_predicts_the_targets_from_the_block_before(version):
    torch.manual_seed(0)
    model = T5(vocab_size=40, num_layers=2, width=16, num_heads=2, version=version, dropout=0.0)
    tokens, sources = torch.randint(2, 40, (2, 6)), torch.randint(2, 40, (2, 6))
    targets = torch.randint(2, 40, (2, 6))
    targets[1, 4:] = -100
    mean, losses = model.loss(tokens, targets, sources_BT=sources)
    theirs = model.t5(input_ids=sources, labels=targets).loss
    torch.testing.assert_close(mean, theirs)
    assert losses[1, 4:].eq(0).all() and losses[0].gt(0).all()
    other = sources.clone()
    other[0, 0] = (sources[0, 0] - 1) % 38 + 2
    assert model.loss(tokens, targets, sources_BT=other)[0] != mean, "the block before is read"
    blank = sources[:1].clone()
    blank[0, :3] = -1  # where the text has not begun: what stands there is not read
    known = model.loss(tokens[:1], targets[:1], sources_BT=blank)[1]
    blank[0, :3] = -7
    assert torch.equal(known, model.loss(tokens[:1], targets[:1], sources_BT=blank)[1])


def test_sources_are_the_block_before_the_targets(tmp_path):
    rows = {"text": [f"{i:04d}" * 12 for i in range(60)], "date": ["2010", "2011"] * 30}
    Dataset.from_dict(rows).save_to_disk(tmp_path / "d")
    data = DatedHub(
        name=str(tmp_path / "d"),
        date_column="date",
        tokenizer=Bytes(),
        context_length=8,
        batch_size=2,
        cache_dir=tmp_path / "cache",
        next_block=True,
        test_fraction=0.2,
    )
    dataset = data.of_period("2010", "test")
    whole = dataset.tokens.astype(np.int64)
    batch = dataset.batch([0, 1, 3])
    assert batch["sources_BT"][0].tolist() == [-1] * 7 + [int(whole[0])]
    for row, window in ((1, 1), (2, 3)):
        start = 8 * window + 1
        assert batch["sources_BT"][row].tolist() == whole[start - 8 : start].tolist()
        assert batch["targets_BT"][row].tolist() == whole[start : start + 8].tolist()
    assert torch.equal(dataset.at(np.array([24]))["sources_BT"][0], batch["sources_BT"][2])


def test_splits_of_the_hub_are_periods_with_their_own_test_text(tmp_path):
    def rows(tag: str) -> Dataset:
        return Dataset.from_dict({"text": [f"{tag} number {i} " * 5 for i in range(40)]})

    names = [f"2016_{month}_{part}" for month in (0, 9) for part in ("train", "test")]
    DatasetDict({name: rows(name) for name in names}).save_to_disk(tmp_path / "d")
    data = DatedHub(
        name=str(tmp_path / "d"),
        splits=names,
        months_from=0,
        by="month",
        base_fraction=0.0,
        tokenizer=Bytes(),
        context_length=8,
        batch_size=2,
        cache_dir=tmp_path / "cache",
    )
    assert data.periods == ["2016-01", "2016-10"], "month 9, counted from zero, is October"
    for label, month in (("2016-01", 0), ("2016-10", 9)):
        for split in ("train", "val", "test"):
            part = "test" if split == "test" else "train"
            found = data.documents_of(label, split)
            assert found and all(d.text.startswith(f"2016_{month}_{part}") for d in found)
    with pytest.raises(ValueError, match="splits: train has no date"):
        DatedHub(name="x", splits=["train"], tokenizer=Bytes(), context_length=8, batch_size=2,
                 cache_dir=tmp_path)  # fmt: skip


def test_t5_is_tuned_and_compared_like_a_decoder(tmp_path):
    sweep(tmp_path, tmp_path / "runs", ["base", "p1", "p2"], *TINY)
    (study,) = find_studies(tmp_path / "runs")
    ends = study.losses({"2010": 1.0}), study.losses({"2010": 1.0, "2011": 0.0})
    assert ends[0] == pytest.approx(ends[1], abs=1e-6)
    assert {"embedding", "feed-forward", "attention", "cross-attention", "norm"} <= set(
        study.groups()
    )
