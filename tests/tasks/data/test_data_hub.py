"""Hugging Face datasets: folders as they are saved, streams, and a Hub that is not there."""

import json
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest
from huggingface_hub.errors import RepositoryNotFoundError

from tasks.data.hub import Hub
from tasks.data.hub_access import hub_commit
from tasks.errors import UserError
from tests.tasks.data.made_up import texts


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """The same rows as `save_to_disk` leaves them, alone and by split, and as a folder of files."""
    root = tmp_path_factory.mktemp("datasets")
    rows = datasets.Dataset.from_dict({"text": texts(30), "n": list(range(30))})
    rows.save_to_disk(root / "one")
    datasets.DatasetDict({"train": rows, "extra": rows.select([3])}).save_to_disk(root / "splits")
    (root / "files").mkdir()
    lines = [json.dumps({"text": t, "n": i}) for i, t in enumerate(texts(30))]
    (root / "files" / "train.jsonl").write_text("\n".join(lines))
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.mark.parametrize("kind", ["one", "splits", "files"])
def test_folders(saved, kind):
    found = list(Hub(name=str(saved / kind), meta_columns=["n"]).documents())
    assert [d.text for d in found] == texts(30)
    assert found[7].meta == {"n": 7} and found[7].id == "train:7"


def test_streamed(saved):
    found = list(Hub(name=str(saved / "files"), streaming=True, max_documents=5).documents())
    assert [d.text for d in found] == texts(30)[:5]


def test_named_split(saved):
    assert [d.text for d in Hub(name=str(saved / "splits"), split="extra").documents()] == [
        texts(30)[3]
    ]


def test_fingerprint_follows_the_folder(saved, tmp_path):
    def mark(**settings):
        return Hub(**({"name": str(saved / "files")} | settings)).fingerprint(tmp_path)

    assert mark() == mark() and mark() != mark(max_documents=3)
    other = tmp_path / "other"
    other.mkdir()
    (other / "train.jsonl").write_text('{"text": "changed"}')
    assert mark() != mark(name=str(other))


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"text_column": "body"}, ["'body'", "text, n", "data.text_column"]),
        ({"meta_columns": ["day"]}, ["'day'", "data.meta_columns"]),
        ({"text_column": "n"}, ["int, not text"]),
        ({"split": "validation"}, ["validation", "data.split"]),
    ],
    ids=["text column", "meta column", "not text", "split"],
)
@pytest.mark.parametrize("kind", ["splits", "files"])
def test_mistakes_are_one_line(saved, kind, settings, said):
    with pytest.raises(UserError) as caught:
        list(Hub(name=str(saved / kind), **settings).documents())
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in said), caught.value


def test_nonsense_settings():
    with pytest.raises(ValueError, match="max_documents"):
        Hub(name="x", max_documents=0)


def reachable(monkeypatch, answer):
    """A Hub that answers as told; the tests themselves have no network."""

    def repo_info(self, name, **_):
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(sha=answer)

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", repo_info)


def test_cache_knows_the_commit(monkeypatch, tmp_path):
    """An updated dataset must not meet an old cache; without a network the last one seen serves."""
    marks = []
    for answer in ("aaa", "bbb", OSError("no network")):
        reachable(monkeypatch, answer)
        marks.append(Hub(name="some/data").fingerprint(tmp_path)["commit"])
    assert marks == ["aaa", "bbb", "bbb"]


def test_commit_that_was_seen_is_the_one_that_is_read(monkeypatch):
    reachable(monkeypatch, "aaa")
    asked = {}

    def load_dataset(name, config, **settings):
        asked.update(settings, name=name, config=config)
        return datasets.Dataset.from_dict({"text": ["x"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    corpus = Hub(name="some/data", config="en", split="train", streaming=True)
    assert [d.text for d in corpus.documents()] == ["x"]
    assert (asked["name"], asked["config"], asked["revision"]) == ("some/data", "en", "aaa")
    assert asked["streaming"] is True


def test_several_configs_one_after_the_other(monkeypatch):
    reachable(monkeypatch, "aaa")
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda name, config, **_: datasets.Dataset.from_dict(
            {"text": [f"{config} {i}" for i in "ab"]}
        ),
    )
    found = list(Hub(name="some/data", config=["en", "de"]).documents())
    assert [d.text for d in found] == ["en a", "en b", "de a", "de b"]
    assert len({d.id for d in found}) == 4


def test_without_a_network_nothing_is_retried(monkeypatch):
    """The retries of the libraries take minutes."""
    from datasets import config
    from huggingface_hub import constants

    reachable(monkeypatch, OSError("no network"))
    for module in (config, constants):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    seen = []

    def load_dataset(name, *_, **__):
        seen.append((config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE))
        return datasets.Dataset.from_dict({"text": ["x"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert [d.text for d in Hub(name="some/data").documents()] == ["x"]
    assert seen == [(True, True)]
    assert (config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE) == (False, False)


def test_no_such_dataset_is_one_line(monkeypatch, tmp_path):
    response = SimpleNamespace(headers={}, request=None)
    reachable(monkeypatch, RepositoryNotFoundError("404\nnot found", response=response))
    with pytest.raises(UserError, match=r"data\.name=no/such") as caught:
        Hub(name="no/such").fingerprint(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"tokenizer\.name=//"):
        hub_commit("tokenizer.name", "//", "model", None)


def test_no_network_and_nothing_cached_is_one_line(monkeypatch):
    reachable(monkeypatch, OSError("no network"))
    with pytest.raises(UserError, match=r"data\.name=some/data.*network") as caught:
        list(Hub(name="some/data").documents())
    assert "\n" not in str(caught.value)


def test_network_that_fails_midway_is_one_line(monkeypatch):
    reachable(monkeypatch, "aaa")

    class Broken:
        column_names = None

        def __iter__(self):
            yield {"text": "x"}
            raise ConnectionError("gone\naway")

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: Broken())
    rows = Hub(name="some/data", streaming=True).documents()
    assert next(rows).text == "x"
    with pytest.raises(UserError, match=r"data\.name=some/data.*row 1 \(gone away\)"):
        next(rows)
