"""Ranks, workers, resuming: whichever way a run is carried out, it sees the same windows."""

import itertools
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch

from tasks.data.bpe import BPE
from tasks.data.sources import FileData, HubData
from tasks.errors import UserError
from tests.tasks.data.made_up import Made, text_data, texts

ROOT = Path(__file__).parents[3]


def rank(data, number: int, world_size: int, global_step: int = 0, accumulate: int = 1):
    """The data as one rank of several sees them."""
    data.trainer = SimpleNamespace(
        global_rank=number,
        world_size=world_size,
        global_step=global_step,
        accumulate_grad_batches=accumulate,
    )
    return data


def batches(data, number: int) -> list[torch.Tensor]:
    return [b["tokens_BT"] for b in itertools.islice(data.train_dataloader(), number)]


def same(first, second) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second))


# ---- order


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_see_what_one_would(tmp_path, world_size):
    """Otherwise a run on more devices would be another experiment."""
    alone = batches(text_data(tmp_path, batch_size=8), 40)
    share = 8 // world_size
    ranks = [
        batches(rank(text_data(tmp_path, batch_size=share), r, world_size), 40)
        for r in range(world_size)
    ]
    assert same([torch.cat(step) for step in zip(*ranks)], alone)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(tmp_path, num_workers):
    alone = batches(text_data(tmp_path), 50)
    assert same(batches(text_data(tmp_path, num_workers=num_workers), 50), alone)


def test_endless_and_each_epoch_a_permutation(tmp_path):
    data = text_data(tmp_path, batch_size=5)
    length = data.context_length
    tokens = data.tokens("train")
    epoch = (len(tokens) - length) // length
    rows = torch.cat(batches(data, 3 * epoch // 5 + 1))
    grid = {tuple(tokens[i * length : (i + 1) * length].tolist()) for i in range(epoch)}
    assert {tuple(row.tolist()) for row in rows[:epoch]} == grid
    assert len(rows) > 2 * epoch
    assert {tuple(row.tolist()) for row in rows[epoch : 2 * epoch]} != grid, "cut elsewhere"


def test_seed_decides_the_order(tmp_path):
    first, second = batches(text_data(tmp_path, seed=1), 5), batches(text_data(tmp_path, seed=2), 5)
    assert not same(first, second)
    assert same(first, batches(text_data(tmp_path, seed=1), 5))


def test_random_state_is_left_alone(tmp_path):
    """Reading data must not move the draws of dropout, or a resumed run would differ."""
    for num_workers in (0, 1):
        torch.manual_seed(0)
        before = torch.get_rng_state(), np.random.get_state()[1].copy()
        batches(text_data(tmp_path / str(num_workers), num_workers=num_workers), 3)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.array_equal(np.random.get_state()[1], before[1])


# ---- resuming


def test_samples_seen_is_a_function_of_the_steps(tmp_path):
    data = rank(text_data(tmp_path, batch_size=4), 0, 2, global_step=10, accumulate=3)
    assert data.samples_seen == 10 * 4 * 3 * 2
    assert data.state_dict() == {"samples_seen": 240, "global_step": 10}


def test_resumed_run_goes_on_with_the_next_window(tmp_path):
    straight = batches(text_data(tmp_path), 30)
    stopped = rank(text_data(tmp_path), 0, 1, global_step=12).state_dict()
    resumed = text_data(tmp_path)
    resumed.load_state_dict(stopped)
    assert same(batches(resumed, 18), straight[12:])
    assert rank(resumed, 0, 1, global_step=20).samples_seen == 80


def test_resuming_with_another_batch_size(tmp_path):
    """No window twice, none left out: the state counts windows, not steps."""
    straight = torch.cat(batches(text_data(tmp_path, batch_size=4), 30))
    resumed = text_data(tmp_path, batch_size=2)
    resumed.load_state_dict({"samples_seen": 40, "global_step": 10})
    assert torch.equal(torch.cat(batches(resumed, 40)), straight[40:])
    assert rank(resumed, 0, 1, global_step=15).samples_seen == 50


class Recorder(lightning.LightningModule):
    """Learns nothing; remembers what it was shown."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.counts, self.tested = [], [], []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch["tokens_BT"].clone())
        return self.weight * 0.0

    def validation_step(self, batch, batch_idx):
        self.counts.append(int((batch["targets_BT"] != -100).sum()))

    def test_step(self, batch, batch_idx):
        self.tested.append(int(batch["bytes"]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder, steps, **settings) -> lightning.Trainer:
    return lightning.Trainer(
        default_root_dir=folder,
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **settings,
    )


@pytest.mark.parametrize("accumulate", [1, 2])
def test_lightning_resumes_where_it_stopped(tmp_path, accumulate):
    """Through a real checkpoint and Lightning's own prefetching, bit for bit."""
    settings = {"accumulate_grad_batches": accumulate, "limit_val_batches": 0}
    straight, first, second = Recorder(), Recorder(), Recorder()
    trainer(tmp_path, 12, **settings).fit(straight, datamodule=text_data(tmp_path))
    half = trainer(tmp_path, 5, **settings)
    half.fit(first, datamodule=text_data(tmp_path))
    half.save_checkpoint(tmp_path / "half.ckpt")
    state = torch.load(tmp_path / "half.ckpt", weights_only=True)
    assert state["TextData"]["samples_seen"] == 5 * 4 * accumulate
    trainer(tmp_path, 12, **settings).fit(
        second, datamodule=text_data(tmp_path), ckpt_path=tmp_path / "half.ckpt", weights_only=True
    )
    assert same(first.seen + second.seen, straight.seen) and len(straight.seen) == 12 * accumulate


def test_lightning_validates_and_tests_on_every_token(tmp_path):
    data, model = text_data(tmp_path), Recorder()
    run = trainer(
        tmp_path, 4, val_check_interval=2, check_val_every_n_epoch=None, num_sanity_val_steps=0
    )
    run.fit(model, datamodule=data)
    assert sum(model.counts) == 2 * (len(data.tokens("val")) - 1)
    run.test(model, datamodule=data, verbose=False)
    assert sum(model.tested) == data.dataset("test").num_bytes()


# ---- evaluation


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_ranks_evaluate_every_token_once(tmp_path, world_size):
    """All ranks take as many batches (or a sharded model would wait for ever), none counts twice."""
    alone = text_data(tmp_path, eval_batch_size=3)
    expected = torch.cat([b["targets_BT"] for b in alone.val_dataloader()])
    expected = sorted(map(tuple, expected[(expected != -100).any(1)].tolist()))
    shares = [
        list(rank(text_data(tmp_path, eval_batch_size=3), r, world_size).val_dataloader())
        for r in range(world_size)
    ]
    assert len({len(share) for share in shares}) == 1
    assert all(b["tokens_BT"].shape == (3, 32) for share in shares for b in share)
    found = torch.cat([b["targets_BT"] for share in shares for b in share])
    assert sorted(map(tuple, found[(found != -100).any(1)].tolist())) == expected
    total = sum(int(b["bytes"]) for share in shares for b in share)
    assert total == alone.dataset("val").num_bytes()


def test_no_validation_wanted(tmp_path):
    data = text_data(tmp_path, val_fraction=0.0, test_fraction=0.0)
    assert data.val_dataloader() == [] and data.test_dataloader() == [] and data.baselines() == {}
    assert len(list(data.documents("train"))) == 60
    with pytest.raises(KeyError, match="test"):
        data.tokens("test")


# ---- the cache


def test_second_start_reads_nothing(tmp_path):
    first = text_data(tmp_path, tokenizer=BPE(vocab_size=300))
    corpus = Made(texts(60))
    again = text_data(tmp_path, corpus=corpus, tokenizer=BPE(vocab_size=300))
    assert corpus.read == 0
    assert np.array_equal(first.tokens("train"), again.tokens("train"))
    assert again.tokenizer.vocab_size == 300


def test_whatever_matters_makes_another_cache(tmp_path):
    """An old cache under new settings would be a wrong result that nobody sees."""
    base = text_data(tmp_path)
    for change in (
        {"tokenizer": BPE(vocab_size=300)},
        {"tokenizer": BPE(vocab_size=310)},
        {"val_fraction": 0.3},
        {"test_fraction": 0.3},
        {"corpus": Made(texts(61))},
    ):
        other = text_data(tmp_path, **change)
        assert other.dataset("train").path != base.dataset("train").path, change
    for same_tokens in ({"context_length": 16}, {"batch_size": 2}, {"seed": 5}):
        assert (
            text_data(tmp_path, **same_tokens).dataset("train").path == base.dataset("train").path
        )


def test_processes_prepare_the_same_data_at_once(tmp_path):
    """Two ranks of a real run, or two jobs of a sweep, on a fresh machine."""
    code = """
import sys; sys.path.insert(0, ".")
from pathlib import Path
from tests.tasks.data.made_up import Made, texts
from tasks.data.bpe import BPE
from tasks.data.documents import prepare_documents
from tasks.data.tokens import prepare_tokenizer, prepare_tokens
cache = Path(sys.argv[1])
documents = prepare_documents(Made(texts(200)), cache)
rows = documents.split(val_fraction=0.1, test_fraction=0.1)
tokenizer = prepare_tokenizer(BPE(vocab_size=300), documents, rows["train"], key={}, cache=cache)
folder = prepare_tokens(tokenizer, documents, rows, key={}, cache=cache)
print(folder, sorted((p.name, p.stat().st_mtime_ns) for p in folder.iterdir()))
"""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate() for process in ranks]
    assert said[0][0] == said[1][0] != "", said  # the same files: built once


# ---- what a person may get wrong


@pytest.mark.parametrize(
    "settings",
    [
        {"context_length": 0},
        {"batch_size": 0},
        {"num_workers": -1},
        {"eval_batch_size": 0},
        {"max_eval_tokens": 0},
        {"val_fraction": -0.1},
        {"test_fraction": 1.0},
        {"val_fraction": 0.5, "test_fraction": 0.5},
    ],
    ids=str,
)
def test_settings_out_of_range_name_the_key(tmp_path, settings):
    with pytest.raises(ValueError, match=f"^{next(iter(settings))}: ") as caught:
        text_data(tmp_path, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("settings", [{"batch_size": 10_000}, {"context_length": 10**6}], ids=str)
def test_corpus_smaller_than_a_batch(tmp_path, settings):
    with pytest.raises(UserError, match=r"tokens, one batch needs.*data\.batch_size") as caught:
        text_data(tmp_path, **settings)
    assert "\n" not in str(caught.value)


def test_sources_take_their_corpus_keys_at_the_top(tmp_path):
    """`data.path=…` and `data.name=…` on the command line."""
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(f'{{"body": "{t}"}}' for t in texts(60)))
    common = {
        "tokenizer": BPE(vocab_size=300),
        "context_length": 16,
        "batch_size": 2,
        "cache_dir": tmp_path / "cache",
    }
    files = FileData(path=str(path), text_column="body", **common)
    files.prepare()
    assert {d.text for s in ("train", "val", "test") for d in files.documents(s)} == set(texts(60))
    hub = HubData(name="some/data", config="en", streaming=True, max_documents=3, **common)
    assert (hub.corpus.name, hub.corpus.config, hub.corpus.streaming) == ("some/data", "en", True)
    with pytest.raises(TypeError, match="paht"):
        FileData(path="x", paht="y", **common)
