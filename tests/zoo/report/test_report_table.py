"""Which runs form a row, what it is called, and what may be printed in bold."""

import math
from pathlib import Path

import pytest

from zoo.report.digits import column_decimals, duration, mean_and_half, number
from zoo.report.metrics import ordered, parse
from zoo.report.runs import Run, flatten
from zoo.report.stats import Estimate
from zoo.report.table import tabulate
from zoo.report.variants import group


def make_run(name, model, seed, results=None, status="finished", config=None, **more):
    """A run as read, without files."""
    tree = {
        "seed": seed,
        "model": {"kind": model},
        "paths": {"out": f"/r/{name}"},
        **(config or {}),
    }
    return Run(
        Path(f"/r/{name}"),
        str(name),
        status,
        config=flatten(tree),
        choices={"task": "lm", "model": model},
        overrides=[f"model={model}", f"seed={seed}"],
        results=results or {},
        **more,
    )


def losses(values: dict[str, list[float]], metric="test/loss"):
    """A run for each value, seeds 0, 1, …"""
    return [
        make_run(f"{model}{seed}", model, seed, {metric: value})
        for model, row in values.items()
        for seed, value in enumerate(row)
    ]


def best_of(runs) -> list[str]:
    table = tabulate(group(runs))
    return [v.label for v, cells in zip(table.variants, table.cells) if cells and cells[0].best]


class TestVariants:
    def test_runs_that_differ_in_seed_name_and_paths_are_one(self):
        runs = [
            make_run(
                i, "xpos", i, config={"name": f"xpos-{i}", "data": {"seed": i}, "to": f"/r/{i}/x"}
            )
            for i in range(3)
        ]
        (variant,) = group(runs)
        assert (variant.label, len(variant.runs)) == ("xpos", 3)

    def test_a_seed_that_does_not_follow_the_run_is_a_setting(self):
        runs = [
            make_run(i, "xpos", i % 2, config={"data": {"split_seed": i // 2}}) for i in range(4)
        ]
        assert [v.label for v in group(runs)] == ["split_seed=0", "split_seed=1"]

    def test_labels_are_the_shortest_that_tell_apart(self):
        both = [("gpt2", 0.1), ("gpt2", 0.2), ("xpos", 0.1), ("xpos", 0.2)]
        runs = [
            make_run(i, m, 0, config={"optim": {"lr": lr, "warmup": 5}})
            for i, (m, lr) in enumerate(both)
        ]
        assert [v.label for v in group(runs)] == [
            "gpt2 · lr=0.1",
            "gpt2 · lr=0.2",
            "xpos · lr=0.1",
            "xpos · lr=0.2",
        ]
        runs = [
            make_run(i, m, 0, config={"optim": {"lr": i}}) for i, m in enumerate(("gpt2", "xpos"))
        ]
        assert [v.label for v in group(runs)] == ["gpt2", "xpos"]

    def test_labels_without_choices_come_from_the_config(self):
        runs = [make_run(i, m, 0) for i, m in enumerate(("gpt2", "xpos"))]
        for run, target in zip(runs, ("zoo.positions.learned.Learned", "zoo.positions.xpos.XPos")):
            run.choices = {}
            run.config["model._target_"] = target
            del run.config["model.kind"]
        assert [v.label for v in group(runs)] == ["Learned", "XPos"]

    def test_a_run_that_died_before_its_config_joins_its_variant(self):
        whole = make_run(0, "xpos", 0, {"test/loss": 1.0})
        dead = make_run(1, "xpos", 1, status="failed")
        dead.config = {}
        (variant,) = group([whole, dead])
        assert [run.name for run in variant.runs] == ["0", "1"]

    def test_a_run_that_left_nothing_is_a_row_of_its_own(self):
        variants = group([make_run(0, "xpos", 0), Run(Path("/r/1"), "1")])
        assert [v.label for v in variants] == ["xpos", "run 1"]

    def test_a_seed_run_twice_is_one_sample(self):
        runs = [
            make_run(i, "xpos", seed, {"test/loss": v})
            for i, (seed, v) in enumerate([(0, 1), (0, 2), (1, 4)])
        ]
        table = tabulate(group(runs))
        estimate = table.cells[0][0].estimate
        assert estimate and (estimate.n, estimate.mean) == (2, 2.75)
        assert any("more than once" in note for note in table.caveats)


class TestBest:
    def test_bold_where_the_paired_difference_excludes_zero(self):
        # Differences 0.9, 1.0, 1.1: 1 ± 4.303·0.1/√3 = 1 ± 0.25, though the seeds spread over 10.
        assert best_of(losses({"a": [1.0, 5.0, 9.0], "b": [1.9, 6.0, 10.1]})) == ["a"]

    def test_not_bold_where_it_includes_zero(self):
        # Differences 0.2, 1.0, 1.8: 1 ± 4.303·0.8/√3 = 1 ± 1.99.
        assert best_of(losses({"a": [1.0, 5.0, 9.0], "b": [1.2, 6.0, 10.8]})) == []

    def test_the_rival_is_the_runner_up_not_the_worst(self):
        runs = losses({"a": [1.0, 1.1, 1.2], "worst": [9.0, 9.1, 9.2], "b": [1.1, 1.0, 1.25]})
        assert best_of(runs) == []

    def test_higher_is_better_where_the_name_says_so(self):
        values = {"a": [0.5, 0.51, 0.52], "b": [0.7, 0.71, 0.72]}
        assert best_of(losses(values, "test/accuracy")) == ["b"]
        assert best_of(losses(values, "test/loss")) == ["a"]
        assert best_of(losses(values, "test/oddity")) == []

    def test_one_seed_is_never_bold(self):
        assert best_of(losses({"a": [1.0], "b": [9.0]})) == []

    def test_unpaired_where_seeds_do_not_match(self):
        runs = losses({"a": [1.0, 1.01, 1.02]})
        runs += [make_run(f"b{s}", "b", s, {"test/loss": 2.0 + s / 1000}) for s in (7, 8, 9)]
        assert best_of(runs) == ["a"]

    def test_a_variant_with_a_diverged_seed_is_never_best(self):
        table = tabulate(group(losses({"a": [1.0, 1.01, math.nan], "b": [2.0, 2.01, 2.02]})))
        cell = table.cells[0][0]
        assert cell.estimate and (cell.estimate.n, cell.bad, cell.best) == (2, 1, False)

    def test_only_finished_runs_count(self):
        runs = losses({"a": [1.0, 1.0], "b": [2.0, 2.0]})
        runs.append(make_run("late", "a", 2, {"test/loss": 99.0}, status="interrupted"))
        table = tabulate(group(runs))
        estimate = table.cells[0][0].estimate
        assert estimate and estimate.mean == 1.0

    def test_per_token_losses_of_two_tokenizers_are_not_ranked(self):
        runs = [
            make_run(
                f"{kind}{s}",
                kind,
                s,
                {"test/loss": v, "test/bits_per_byte": v},
                config={"tokenizer": {"kind": kind}},
            )
            for kind, v in (("bytes", 1.0), ("bpe", 3.0))
            for s in range(2)
        ]
        table = tabulate(group(runs))
        marked = {m.name: table.cells[0][i].best for i, m in enumerate(table.metrics)}
        assert marked == {"test/bits_per_byte": True, "test/loss": False}
        assert any("Tokenizers differ" in note for note in table.caveats)

    def test_values_too_large_to_square_count_as_diverged(self):
        table = tabulate(group(losses({"a": [1e300, math.inf], "b": [1.0, 2.0]})))
        assert (table.cells[0][0].estimate, table.cells[0][0].bad) == (None, 2)


class TestBaseline:
    runs = losses({"rope": [1.0, 2.0], "gpt2": [2.0, 4.0]})

    def test_gpt2_where_it_is_there_and_by_name(self):
        variants = group(self.runs)
        assert tabulate(variants).baseline == 1
        table = tabulate(variants, "rope")
        against = table.cells[1][0].against
        assert table.baseline == 0 and against and against.paired and against.mean == 1.5

    def test_an_unknown_name_lists_the_variants(self):
        with pytest.raises(ValueError, match="names no variant; choose one of: rope, gpt2"):
            tabulate(group(self.runs), "t5")

    def test_yardsticks_of_the_data_are_no_columns(self):
        for run in self.runs:
            run.results["baseline/xz_bits_per_byte"] = 1.9
        table = tabulate(group(self.runs))
        assert table.constants == {"baseline/xz_bits_per_byte": 1.9}
        assert [m.name for m in table.metrics] == ["test/loss"]


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("test/loss", -1),
        ("test/bits_per_byte", -1),
        ("test/ppl@512+bca", -1),
        ("test/perplexity", -1),
        ("val/accuracy", 1),
        ("test/exact_match", 1),
        ("test/pass@1", 1),
        ("test/recall@5", 1),
        ("test/recall_error", -1),
        ("test/resolution@1024", 1),
        ("tokens_per_s", 1),
        ("seconds", -1),
        ("peak_memory", -1),
        ("params", 0),
        ("baseline/unigram_bits_per_byte", 0),
        ("test/glossary", 0),
    ],
)
def test_names_say_which_way_is_better(name, direction):
    assert parse(name).direction == direction


def test_columns_are_ordered_by_split_quantity_and_number():
    names = [
        "params",
        "val/loss",
        "test/ppl@1024",
        "test/ppl@512+bca",
        "test/ppl@512",
        "test/loss",
        "test/bits_per_byte",
    ]
    assert [m.name for m in ordered(names)] == [
        "test/bits_per_byte",
        "test/loss",
        "test/ppl@512",
        "test/ppl@1024",
        "test/ppl@512+bca",
        "val/loss",
        "params",
    ]


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (1.83449, 0.0123, ("1.834", "0.012")),
        (1283.79, 45.3, ("1,284", "45")),
        (3.14159265, 0.0000312, ("3.14159", "0.00003")),
        (12.0, None, ("12", "")),
        (1.5, None, ("1.500", "")),
        (7.61e-6, 1.2e-6, ("7.61e-06", "1.20e-06")),
        (1_204_224.0, 0.0, ("1.20M", "")),
        (12.14e9, 1.59e9, ("12.1G", "1.6G")),
        (5e16, 2e15, ("50.0e15", "2.0e15")),
        (-0.321, 0.05, ("−0.321", "0.050")),
        (0.0, 1.5, ("0.0", "1.5")),
    ],
)
def test_as_many_digits_as_the_interval_supports(mean, half, text):
    assert mean_and_half(Estimate(mean, half, 3)) == text


def test_numbers_that_are_none():
    assert (number(math.nan), number(math.inf), number(-math.inf)) == ("NaN", "∞", "−∞")
    assert number(-0.001, 2, sign=True) == "0.00"
    assert (duration(None), duration(75), duration(3725)) == ("", "1 min 15 s", "1 h 02 min")


def test_a_column_shares_its_decimals_only_where_magnitudes_allow():
    assert column_decimals([Estimate(1.2, 0.012, 3), Estimate(1.3, 0.0062, 3), None]) == 3
    assert column_decimals([Estimate(20.7, 0.05, 3), Estimate(1283.0, 45.0, 3)]) is None
