"""Dates, periods and the corpora cut by them."""

import json
from pathlib import Path

import numpy as np
import pytest

from tasks.data.bpe import BPE
from tasks.data.tokenizers import Bytes
from tasks.errors import UserError
from tasks.time_vectors.data import DatedData, DatedFiles
from tasks.time_vectors.periods import Calendar, parse_month
from tasks.time_vectors.synthetic import SyntheticNews


@pytest.mark.parametrize(
    ("text", "month"),
    [
        ("2015", (2015, 1)),
        ("2015-07", (2015, 7)),
        ("2015-07-31T10:00", (2015, 7)),
        ("20150731", (2015, 7)),
        ("news/2015_7/a.txt", (2015, 7)),
        ("2015Q3", (2015, 7)),
        ("2014_train", (2014, 1)),
        ("abc", None),
        ("1234567", None),
        ("2015-13", None),
    ],
)
def test_dates_are_read(text, month):
    assert parse_month(text) == (None if month is None else 12 * month[0] + month[1] - 1)


def test_months_may_be_counted_from_zero():
    assert parse_month("2016_9_test", months_from=0) == 12 * 2016 + 9, "which is October"


@pytest.mark.parametrize(
    ("by", "every", "labels"),
    [
        ("year", 1, ["2014", "2015"]),
        ("year", 2, ["2014-2015", "2016-2017"]),
        ("quarter", 1, ["2014Q2", "2014Q3"]),
        ("quarter", 2, ["2014Q2-2014Q3", "2014Q4-2015Q1"]),
        ("month", 1, ["2014-05", "2014-06"]),
        ("month", 12, ["2014-05-2015-04", "2015-05-2016-04"]),
    ],
)
def test_periods_are_named_by_what_they_hold(by, every, labels):
    calendar = Calendar(by, every, 12 * 2014 + 4)
    assert [calendar.label(0), calendar.label(1)] == labels
    assert calendar.number(12 * 2014 + 4) == 0
    assert calendar.number(12 * 2014 + 4 + calendar.months) == 1


def synthetic(tmp_path: Path, **settings) -> DatedData:
    given = {
        "corpus": SyntheticNews(first_year=2010, last_year=2012, documents_per_month=8),
        "tokenizer": Bytes(),
        "context_length": 32,
        "batch_size": 2,
        "cache_dir": tmp_path / "cache",
        "test_fraction": 0.15,
    }
    return DatedData(**given | settings)


def texts(data: DatedData, label: str, split: str) -> set[str]:
    return {document.text for document in data.documents_of(label, split)}


def test_every_period_has_as_many_tokens_and_no_text_is_in_two_splits(tmp_path):
    data = synthetic(tmp_path, period="2011")
    data.prepare()
    assert data.periods == ["2010", "2011", "2012"]
    counts = {label: len(data.of_period(label, "train").tokens) for label in data.periods}
    assert len(set(counts.values())) == 1 and data.equal_tokens + 1 == counts["2010"]
    groups = {
        (label, split): texts(data, label, split)
        for label in data.periods
        for split in ("train", "val", "test")
    } | {("base", "train"): texts(data, "base", "train")}
    names = list(groups)
    for i, one in enumerate(names):
        assert groups[one], one
        for other in names[:i]:
            assert not groups[one] & groups[other], (one, other)
    for label in data.periods:
        for split in ("train", "val", "test"):
            dates = {d.meta["date"][:4] for d in data.documents_of(label, split)}
            assert dates == {label}
    assert data.dataset("train").path.name == "train-2011.arrow"


def test_all_periods_together_are_as_long_as_all_of_them(tmp_path):
    data = synthetic(tmp_path, period="all")
    data.prepare()
    assert abs(len(data.tokens("train")) - 3 * data.equal_tokens) <= 3 * 400
    assert texts(data, "all", "test") == set().union(
        *(texts(data, label, "test") for label in data.periods)
    )


def test_shuffled_dates_are_all_training_text_dealt_out_anew(tmp_path):
    """The control of the cosines: as much text as a period, of every date, none of it test text."""
    data = synthetic(tmp_path, period="s2")
    data.prepare()
    rows = data.dated.shuffled
    assert [*rows] == ["train-shuffled-1", "train-shuffled-2", "train-shuffled-3"]
    assert sorted(np.concatenate([*rows.values()])) == sorted(data.dated.rows["train-all"])
    for part in rows.values():
        dates = [d.meta["date"][:4] for d in data.dated.documents.read(part)]
        assert min(dates.count(year) for year in data.periods) > 0.15 * len(dates)
    size = len(data.dataset("train").tokens) - 1
    assert 0.9 * data.equal_tokens < size <= data.equal_tokens
    assert data.dataset("test").path.name == "test-all.arrow"
    assert synthetic(tmp_path, period="o2").dataset("train").path.name == "train-2011.arrow"


def test_order_of_files_moves_no_document_to_another_split(tmp_path):
    """Rows that are added later or read in another order must not leak test text into training."""
    rows = [
        {"date": f"{2010 + i % 3}-0{1 + i % 9}", "text": f"text number {i} " * 9}
        for i in range(400)
    ]
    found = []
    for name, order in (("a", rows), ("b", rows[::-1])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, order)))
        data = DatedFiles(
            path=str(tmp_path / f"{name}.jsonl"),
            period="2011",
            tokenizer=Bytes(),
            context_length=16,
            batch_size=2,
            cache_dir=tmp_path / "cache",
            test_fraction=0.2,
        )
        data.prepare()
        found.append([texts(data, "2011", split) for split in ("train", "val", "test")])
    assert found[0] == found[1]


def test_ordinals_and_names_mean_the_same_period(tmp_path):
    assert synthetic(tmp_path, period="p2").label == "2011"
    assert synthetic(tmp_path, period=2011).label == "2011"
    with pytest.raises(UserError, match=r"data\.period: 2020 is not one of base, all, p1 to p3"):
        synthetic(tmp_path, period="2020").prepare()


def test_the_tokenizer_is_the_same_for_every_period(tmp_path):
    """Weights of models with different vocabularies could not be added."""
    prints = []
    for period in ("base", "2010", "all"):
        data = synthetic(tmp_path, period=period, tokenizer=BPE(vocab_size=300))
        data.prepare()
        prints.append(data.tokenizer.fingerprint)
    assert prints[0] == prints[1] == prints[2]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"tokens_per_period": 10**9}, "data.tokens_per_period: 1,000,000,000 is more than"),
        ({"first": 2013}, "no document lies between"),
        ({"by": "year", "every": 5}, "1 period"),
        ({"date_column": "topic"}, "no document has a date"),
    ],
)
def test_what_cannot_be_cut_is_said_in_a_line(tmp_path, settings, line):
    with pytest.raises(UserError, match=line):
        synthetic(tmp_path, **settings).prepare()


def test_a_range_of_dates_leaves_the_rest_to_the_base(tmp_path):
    data = synthetic(tmp_path, period="base", first=2011, last="2012-06")
    data.prepare()
    assert data.periods == ["2011", "2012"]
    years = {d.meta["date"][:7] for d in data.documents_of("base", "train")}
    assert "2010-03" in years and "2012-09" in years
    assert max(d.meta["date"] for d in data.documents_of("2012", "test")) < "2012-07"


def shares(corpus: SyntheticNews, words: bool) -> dict[str, np.ndarray]:
    """Of the words, or of the topics, by month."""
    documents: dict[str, list[str]] = {}
    for document in corpus.documents():
        content = document.text.split() if words else [document.meta["topic"]]
        documents.setdefault(document.meta["date"][:7], []).extend(content)
    known = {w: i for i, w in enumerate(sorted({w for ws in documents.values() for w in ws}))}
    return {
        month: np.bincount([known[w] for w in ws], minlength=len(known)) / len(ws)
        for month, ws in documents.items()
    }


def test_made_up_text_drifts_with_the_years_and_returns_with_the_months():
    """The made-up corpus is what the experiments stand on: it must have what they look for, and the
    controls must not."""

    def apart(found: dict[str, np.ndarray], a: str, b: str) -> float:
        return float(np.abs(found[a] - found[b]).sum())

    size = {"first_year": 2010, "last_year": 2012, "documents_per_month": 40}
    drifting = shares(SyntheticNews(**size), words=True)
    assert apart(drifting, "2010-01", "2010-02") < 0.8 * apart(drifting, "2010-01", "2012-12")
    still = shares(SyntheticNews(**size, drift=0.0), words=True)
    assert apart(still, "2010-01", "2012-12") < 1.15 * apart(still, "2010-01", "2010-02")
    seasonal = shares(SyntheticNews(**size, drift=0.0, season=2.0), words=False)
    assert apart(seasonal, "2010-01", "2011-01") < 0.7 * apart(seasonal, "2010-01", "2010-07")
    first, again = (next(SyntheticNews(**size).documents()).text for _ in range(2))
    assert first == again != next(SyntheticNews(**size, seed=1).documents()).text
