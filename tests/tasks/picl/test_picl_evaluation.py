"""Few-shot prompts and scores, instruction tasks, and the pre-training mixture."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.data.order import order
from tasks.data.tokenizers import Bytes
from tasks.icl.sets import Example, LabelledSet, Template
from tasks.optim import AdamW, Budget, Schedule
from tasks.picl.evaluation import FewShotCurve, summary
from tasks.picl.groups import Groups, Sequence
from tasks.picl.sets import PUBLISHED, FewShotSets, TextSets, WorldSets, balance
from tasks.picl.superni import encode_prompt, judge, read_task, rouge_l
from tasks.picl.task import PICL, rows_of
from tasks.picl.world import SYNONYMS, WORDS, World
from zoo.load import build

WORLD = World(seed=0, corpus_tasks=10, labelled_tasks=4, test_tasks=3)


class Fixed(FewShotSets):
    def __init__(self, *sets: LabelledSet):
        self.given = sets

    def sets(self):
        return self.given


def nano(context_length: int = 128):
    """A decoder of bytes that was never trained."""
    torch.manual_seed(0)
    parts = {
        "position": "zoo.positions.none.NoPosition",
        "mixer": "zoo.mixers.softmax.SoftmaxAttention",
        "mask": "zoo.masks.causal",
        "mlp": "zoo.mlp.GELU",
        "norm": "zoo.norms.LayerNorm",
    }
    node = {k: {"_target_": v, "_partial_": True} for k, v in parts.items()}
    sizes = {"context_length": context_length, "num_layers": 1, "width": 16, "num_heads": 2}
    return build({"_target_": "zoo.decoder.Decoder", "vocab_size": 256, **sizes, **node}).eval()


def mood(count: int = 12) -> LabelledSet:
    examples = [Example({"text": f"text {i}"}, i % 3) for i in range(count)]
    return LabelledSet(
        "mood", Template("Say {text} Is:", ("bad", "so so", "good")), examples, examples
    )


# ---- few-shot


def test_demonstrations_are_balanced_rounds_of_the_labels() -> None:
    """Published: SST-5 with 4 demonstrations has 5. Exactly as many where asked; fewer are the first
    of more, so that a curve over their number adds demonstrations and swaps none."""
    curve = FewShotCurve(sets=Fixed(mood()), shots=[0, 4], draws=[10])
    tokenizer = Bytes()
    ids, count = curve.demonstrations(mood(), tokenizer, 4, 10, room=10_000)
    lines = tokenizer.decode(ids).splitlines()
    answers = [line.split("Is: ")[1] for line in lines]
    assert count == 6 and sorted(answers) == ["bad", "bad", "good", "good", "so so", "so so"]
    assert {*answers[:3]} == {"bad", "so so", "good"} and len({*lines}) == 6
    exact = FewShotCurve(sets=Fixed(mood()), shots=[2], draws=[10], whole_labels=False)
    two, four = (exact.demonstrations(mood(), tokenizer, k, 10, room=10_000) for k in (2, 4))
    assert (two[1], four[1]) == (2, 4) and four[0][: len(two[0])] == two[0]
    assert exact.demonstrations(mood(), tokenizer, 4, 20, room=10_000)[0] != four[0]
    assert exact.demonstrations(mood(), tokenizer, 4, 10, room=len(two[0]))[1] == 2
    assert exact.demonstrations(mood(), tokenizer, 0, 10, room=10_000) == ([], 0)


@pytest.mark.parametrize("normalised", [False, True])
def test_prediction_is_the_label_of_least_summed_loss(normalised: bool) -> None:
    """Answers of several tokens: sum and mean choose differently, and the published rule is the sum,
    the line end included."""
    model, tokenizer, labelled = nano(), Bytes(), mood(6)
    curve = FewShotCurve(sets=Fixed(labelled), shots=[2], draws=[10], normalised=normalised)
    outcome = curve.evaluate(model, tokenizer, context_length=128)[0]
    prefix, _ = curve.demonstrations(labelled, tokenizer, 2, 10, room=100)
    right = 0
    for example in labelled.test:
        losses = []
        for answer in labelled.template.answers:
            start = prefix + tokenizer.encode(labelled.template.question(example)).tolist()
            rest = tokenizer.encode(f" {answer}\n").tolist()
            logs = model(torch.tensor([start + rest]))[0].log_softmax(-1)
            nll = [-logs[len(start) - 1 + i, t].item() for i, t in enumerate(rest)]
            losses.append(sum(nll) / (len(nll) if normalised else 1))
        right += int(np.argmin(losses) == example.label)
    assert (outcome.right, outcome.queries, outcome.shots) == (right, 6, 3)


def test_calibration_subtracts_what_an_empty_question_scores() -> None:
    model, tokenizer = nano(), Bytes()
    plain, calibrated = (
        FewShotCurve(sets=Fixed(mood()), shots=[3], draws=[10], calibrate=on)
        for on in (False, True)
    )
    empty = mood().without_content()
    same = LabelledSet("mood", mood().template, mood().train, [empty] * 3)
    prefix, _ = plain.demonstrations(same, tokenizer, 3, 10, room=90)
    question = tokenizer.encode(same.template.question(empty)).tolist()
    options = [tokenizer.encode(f" {a}\n").tolist() for a in same.template.answers]
    one = plain._nll(model, [question], [options], prefix)[0]
    assert len({*one.round(3).tolist()}) == 3
    found = calibrated.evaluate(model, tokenizer, context_length=128)
    assert 0 <= found[0].right <= found[0].queries == 12
    own = FewShotCurve(sets=Fixed(same), shots=[3], draws=[10], calibrate=True)
    assert own.evaluate(model, tokenizer, context_length=128)[0].right == 3  # all equal: label 0


def test_world_sets_never_repeat_a_demonstrations_key() -> None:
    """Else copying what followed the same key would do, and no class would have to be understood."""
    sets = [*WorldSets(world=WORLD, rows=40, queries=9).sets()]
    assert len(sets) == 3
    for labelled, number in zip(sets, WORLD.test_tasks):
        keys = [
            {example.fields["text"].split()[-1] for example in part}
            for part in (labelled.train, labelled.test)
        ]
        assert not keys[0] & keys[1] and len(labelled.train) == 40 and len(labelled.test) == 9
        of = {w: i // SYNONYMS for i, w in enumerate(WORDS["key"].tolist())}
        for example in (*labelled.train, *labelled.test):
            assert of[example.fields["text"].split()[-1]] == example.label
        answers = WORDS["answer"][WORLD.tasks[number].answers].tolist()
        assert list(labelled.template.answers) == answers


def test_summary_counts_a_world_as_one_set() -> None:
    curve = FewShotCurve(
        sets=[WorldSets(world=WORLD, queries=4), Fixed(mood())], shots=[0, 4], draws=[1, 2]
    )
    outcomes = curve.evaluate(nano(), Bytes(), context_length=256)
    found = summary(outcomes)
    for k in (0, 4):
        each = [found[f"test/fewshot_accuracy_{name}@{k}"] for name in ("world", "mood")]
        assert found[f"test/fewshot_accuracy@{k}"] == pytest.approx(np.mean(each))
    world = [o for o in outcomes if o.set == "world" and o.asked == 4]
    assert len(world) == 6 and {o.draw for o in world} == {1, 2}


def test_real_sets_come_in_the_published_templates(tmp_path: Path) -> None:
    (tmp_path / "subj").mkdir()
    rows = [("objective", "it  opens"), ("subjective", "a joy"), ("objective", "he dies")]
    lines = [json.dumps({"text": t, "label_text": label}) for label, t in rows]
    for split in ("train", "test"):
        (tmp_path / "subj" / f"{split}.jsonl").write_text("\n".join(lines))
    (found,) = TextSets(names=["subj"], folder=tmp_path).sets()
    assert found.template.question(found.train[0]) == "Input: it opens Type:"
    assert found.template.answers == ("Objective", "Subjective")
    assert [example.label for example in found.test] == [0, 1], "balanced: one of each"
    assert balance([]) == []
    assert all("{" in prompt for prompt, _ in PUBLISHED.values())


# ---- instruction tasks


def task_file(folder: Path, outputs: list, examples: int = 3) -> Path:
    path = folder / "task001.json"
    content = {
        "Definition": ["Repeat  the word."],
        "Positive Examples": [{"input": f"in {i}", "output": f"out {i}"} for i in range(examples)],
        "Instances": [{"input": f"word {i}", "output": o} for i, o in enumerate(outputs)],
    }
    path.write_text(json.dumps(content))
    return path


def test_rouge_l_by_hand() -> None:
    """LCS "the cat sat" of 3 and 4 words: P = 3/3, R = 3/4."""
    assert rouge_l("the cat sat", ["the black cat sat"]) == pytest.approx(100 * 6 / 7)
    assert rouge_l("cats sitting", ["cat sits"]) == pytest.approx(100.0), "stemmed"
    assert rouge_l("", ["something"]) == 0.0
    assert rouge_l("a b", ["x y", "b a"]) == pytest.approx(50.0), "the best reference counts"


def test_instruction_prompt_is_cut_at_its_beginning(tmp_path: Path) -> None:
    tokenizer = Bytes()
    task = read_task(task_file(tmp_path, [["one"], "two"]), examples=1)
    assert task.instances[1] == ("word 1", ["two"])
    whole = tokenizer.decode(encode_prompt(tokenizer, task, "word 0", room=1000))
    assert whole == (
        "Definition: Repeat the word.\nPositive Example 1- Input: in 0 Output: out 0\n"
        "Now complete the following example- Input: word 0 Output:"
    )
    short = tokenizer.decode(encode_prompt(tokenizer, task, "word 0", room=80))
    assert len(short) == 80 and whole.endswith(short)
    cut = tokenizer.decode(encode_prompt(tokenizer, task, "x" * 50 + "end", room=1000, longest=5))
    assert "Input: xxend Output:" in cut


def test_instruction_tasks_are_judged(tmp_path: Path) -> None:
    model, tokenizer = nano(256), Bytes()
    free = read_task(task_file(tmp_path, [f"answer {i}" for i in range(5)]))
    assert 0 <= judge(model, tokenizer, free, context_length=256, max_new_tokens=4) <= 100
    sampled = [
        judge(model, tokenizer, free, context_length=256, max_new_tokens=4, top_p=0.9)
        for _ in range(2)
    ]
    assert sampled[0] == sampled[1]
    yes_no = read_task(task_file(tmp_path, ["yes", "no", "yes", "no"]))
    assert judge(model, tokenizer, yes_no, context_length=256, max_new_tokens=4) in (
        0,
        25,
        50,
        75,
        100,
    )


def test_a_file_that_is_no_task_is_one_line(tmp_path: Path) -> None:
    from tasks.errors import UserError

    path = tmp_path / "x.json"
    path.write_text('{"Definition": ["a"]}')
    with pytest.raises(UserError, match="is no task of natural-instructions"):
        read_task(path)


# ---- the mixture and its schedules


def test_rows_of_a_batch() -> None:
    from tasks.errors import UserError

    assert [rows_of(a, 32) for a in (0.0, 0.5, 0.25, 1.0)] == [0, 16, 8, 32]
    with pytest.raises(UserError, match=r"alpha: 0\.5 of data\.batch_size=1"):
        rows_of(0.5, 1)


class Counted(Groups):
    """Three groups of known tokens, of which some do not count."""

    def prepare(self, data, *, context_length, seed):
        raise AssertionError("is given")

    def __len__(self) -> int:
        return 3

    def sequence(self, number: int) -> Sequence:
        ids = np.arange(4 + number) + 10 * (number + 1)
        return Sequence(ids, np.arange(len(ids)) >= number, np.array([0]))


@pytest.mark.parametrize("alpha", [0.25, 0.5, 1.0])
def test_the_loss_is_the_published_mixture(alpha: float) -> None:
    """Eq. 5: a mean over the groups' tokens and one over the documents', however many each has."""
    model = nano(8)
    budget = Budget(tokens_per_step=1, default_tokens=1)
    task = PICL(model=model, optim=AdamW(), budget=budget, alpha=alpha, groups=Counted())
    draw = torch.Generator().manual_seed(0)
    text = torch.randint(0, 256, (4, 9), generator=draw)
    batch = {"tokens_BT": text[:, :-1], "targets_BT": text[:, 1:].clone()}
    batch["targets_BT"][3, :5] = -100
    batch["documents_BT"] = torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2]]).repeat(4, 1)
    rows = rows_of(alpha, 4)
    mixed, weights = task.mixed(batch, np.arange(rows))
    found, _ = model.loss(
        mixed["tokens_BT"],
        mixed["targets_BT"],
        documents_BT=mixed["documents_BT"],
        weights_BT=weights,
    )
    groups = []
    for number in order(0, np.arange(rows), 3):
        sequence = task.groups.sequence(int(number))
        ids = torch.from_numpy(sequence.tokens)
        logs = model(ids[None, :-1])[0].log_softmax(-1)
        groups += [-logs[t - 1, ids[t]] for t in range(1, len(ids)) if sequence.counted[t]]
    wanted = alpha * torch.stack(groups).mean()
    if alpha < 1:
        rest = {k: v[rows:] for k, v in batch.items()}
        wanted = wanted + (1 - alpha) * model.loss(**rest)[0]
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), abs=1e-5)
    assert (batch["documents_BT"][0] > 0).any(), "the loader's own batch is left as it is"


def test_the_two_published_schedules() -> None:
    """Paper: lr0 sqrt(W/s). Code: (lr0 - end) sqrt(1 - (s-W)/(T-W)) + end. About five times apart."""
    T, W = 100_000, 1000
    paper, code = Schedule(warmup=W, decay="inverse_sqrt"), Schedule(warmup=W, decay="square_root")
    for step in (W, 5000, T // 2, T - 1):
        assert paper.factor(step, step / T) == pytest.approx(math.sqrt(W / step))
        wanted = 0.1 + 0.9 * math.sqrt(1 - (step - W) / (T - W))
        assert code.factor(step, step / T) == pytest.approx(wanted)
    assert paper.factor(99, 99 / T) == code.factor(99, 99 / T) == pytest.approx(0.1)
