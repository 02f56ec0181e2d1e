"""Every command and every Python snippet of the systems' pages is executed, at a size that takes seconds.

A command that its page gets wrong costs its reader an hour. What is added to a command stands in SMALL;
what cannot run here, with the reason, in ELSEWHERE: that much is composed and built.
"""

import json
import random
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

import hydra
import pytest
import tokenizers
import torch
import transformers
from datasets import Dataset
from pages import PAGES, Command, Desk, blocks, commands, execute, merged
from test_conf import composed

import zoo
import zoo.mixers
import zoo.positions
from tasks import run_folder
from tasks.optim import Budget
from zoo.load import build

COMMANDS = commands()

GPU, HUB, SLURM = "needs a GPU", "needs the Hub", "needs a cluster"
HOURS = "the published setting: days on several GPUs, with weights or data from the Hub"
# A command that is only composed and built (of a module: whose arguments are only read): why.
ELSEWHERE = {
    "python train.py model=xpos size=small trainer=gpu data.batch_size=16 max_tokens=300000000 compile=true": GPU,
    "python train.py model=xpos size=medium trainer=fsdp trainer.devices=8 trainer.num_nodes=2": SLURM,
    "python train.py model=xpos size=medium trainer=fsdp trainer.devices=8 data.batch_size=8": GPU,
    "python train.py model=xpos size=large trainer=tensor_parallel trainer.strategy.tensor_parallel=4 trainer.devices=8": GPU,
    "python train.py model=xpos size=large trainer=fsdp trainer.devices=8 trainer.num_nodes=4 hydra.run.dir=runs/large": SLURM,
    "python train.py -m model=rope,xpos seed=0,1,2 hydra/launcher=submitit_slurm hydra.launcher.gpus_per_node=1": SLURM,
    "python -m zoo.evaluate my_run --tasks lambada_openai,hellaswag --limit 100": HUB,
    "python train.py task=code_execution model=unixcoder size=small tokenizer=unixcoder task.pretrained=microsoft/unixcoder-base": HUB,
    "python train.py experiment=code_execution_paper": HOURS,
    "python train.py experiment=momentum_paper mixer=softmax": HOURS,
    "python train.py experiment=time_vectors_wmt": HOURS,
    "python -m tasks.time_vectors.bench --mergekit VENV": "needs an environment with mergekit in it",
}
# What of them is left out where it would read the Hub, or another run, as it is built.
LEFT_OUT = {
    "time_vectors_wmt": "model.name=null task.base=null",
    "momentum_paper": "task.sets=null",
    "code_execution": "tokenizer=traces",
}

ICL = "data.batch_size=16 data.test_episodes=2 data.dev_episodes=1 data.eval_samples=32 task.finetuning_lrs=[0.1]"
PICL = (
    "data.corpus.paragraphs=400 data.corpus.world.corpus_tasks=10 data.corpus.world.labelled_tasks=8 "
    "data.corpus.world.test_tasks=2 data.corpus.real_paragraphs=30 data.val_fraction=0.1 "
    "data.test_fraction=0.1 tokenizer.vocab_size=600 model.context_length=128"
)
RETRIEVER = "task.groups.finder.retriever.steps=3 task.groups.finder.retriever.batch_size=4"
NEWS = (
    "data.max_eval_tokens=300 data.max_val_tokens=300 data.batch_size=8 model.width=32 model.context_length=48 "
    "callbacks.loss_plot=null max_steps=3"
)
# What makes a command small: (those that it is for, further arguments), a later one before an earlier.
SMALL = [
    (r"train\.py|search|stages", "size=nano max_steps=2 validate_every=2 data.batch_size=4 trainer.precision=fp32"),
    (
        r"(?!.*(\bdata=|=code_execution|experiment=(icl|momentum_f|picl|time|myopia_[sm])))(.*train\.py|.*search)",
        "data=text data.path=my_folder data.test_fraction=0.3",
    ),
    (r"logbias|shrinking|qknorm", "--config-dir=conf"),
    (r"max_steps=0", "max_steps=0"),
    (r"ckpt=", "max_steps=4"),
    (r"max_minutes=2", "max_minutes=0.01"),
    (r"seed=0,1,2", "seed=0"),
    (r"model=gpt2,rope,alibi,xpos", "model=gpt2,xpos"),
    (r"tokenizer=bpe", "tokenizer.vocab_size=300"),
    (r"tasks\.search", "--trials=2"),
    (r"zoo\.bench", "--rounds=1 --no-compile"),
    (r"data\.bench", "--cache=cache"),
    (r"--tokens 400", "--tokens=20"),
    (r"experiment=lex(?!.*RUN)", "model=rope,xpos seed=0"),
    (r"task=extrapolation", "task.speed=false"),
    (r"task.speed=true", "task.speed_lengths=[64]"),
    (r"experiment=momentum\b", "arm=plain,eta5 seed=0 model.context_length=64"),
    (r"experiment=momentum_fewshot", f"arm=plain,eta5 seed=0 {ICL}"),
    (r"momentum\.bench|code_execution\.bench", "--rounds=1"),
    (r"task=momentum", "task.draws=1 model.context_length=256"),
    (r"icl_is_gd|label_mapping", ICL),
    (r"icl_is_gd", "seed=0"),
    (r"icl_regression", "data.eval_samples=64"),
    (r"data=classification", "data.shots=4 data.dev_queries=2 task.finetuning_lrs=[0.01]"),
    (r"name=sst2", "data.folder=FOLDER"),
    (r"task=myopia |myopia_language", "data.max_eval_tokens=2000 model.num_layers=1"),
    (r"myopia_language", "mixer=softmax,myopic,myopic_frozen seed=0"),
    (r"=precaching|myopia_synthetic", "data.eval_samples=64 model.context_length=24"),
    (r"myopia_synthetic", "seed=0 optim.lr=2e-3"),
    (r"=multiplication|experiment=myopia_mul", "data.eval_samples=64"),
    (r"experiment=myopia_mul", "seed=0 model.context_length=9"),
    (r"myopia\.bench", "--rounds=1 --memory-rounds=1 --length=64"),
    (r"experiment=picl", PICL),
    (r"train.*experiment=picl$", "task=picl,picl_extralm seed=0"),
    (r"task=picl|stages", RETRIEVER),
    (r"data=text.*picl|picl.*data=text", "model.context_length=512 task.groups.longest=null"),
    (r"picl\.heldout", "--seeds=0 --steps=2 --rows=20 -k=2"),
    (r"picl\.superni", "--tokens=4 --instances=2"),
    (r"picl\.separation", "--groups=20"),
    (r"picl\.bench", "--paragraphs=1000 --layers=0 --width=16"),
    (r"train.*time_vectors", NEWS),
    (r"train.*experiment=time_vectors", "seed=0 data.period=base,p1,p2,all"),
    (r"train.*experiment=time_vectors_task", "data.period=p1,p2"),
    (r"train.*time_vectors(?!.*data=)", "data.corpus.documents_per_month=20"),
    (r"=code_execution", "data.records.singleline=60 data.records.tutorial=60 data.records.codenet=40"),
    (r"=code_execution", "max_steps=6 model.context_length=320 data.max_val_items=4 data.max_test_items=4"),
    (r"experiment=code_execution", "seed=0"),
]  # fmt: skip

NEWS_SWEEP = "python train.py experiment=time_vectors"
OWN_NEWS = f"{NEWS_SWEEP} data=dated data.path=FILE.jsonl data.first=2015 data.every=2"
# By page: what a name on it stands for, given by the command that makes it.
MADE_BY = {
    "README.md": {
        "RUN_FOLDER": "python train.py model=xpos task=lm",
        "runs/2026-11-21/12-00-00-000000-xpos-lm": "python train.py model=xpos task=lm",
        "ckpt=last": "python train.py model=xpos task=lm",
        "runs/sweeps/*/*": "python train.py -m model=gpt2,rope,alibi,xpos task=lm seed=0,1,2",
        "sweep.resume": "python train.py -m model=gpt2,rope,alibi,xpos task=lm seed=0,1,2",
        "my_run": "python train.py model=xpos hydra.run.dir=my_run",
        "my_model": "python -m zoo.export my_run my_model",
    },
    "tasks/code_execution/README.md": {
        "runs/DAY/RUN": "python train.py task=code_execution",
        "RUN": "python train.py task=code_execution",
    },
    "tasks/icl/README.md": {"SWEEP_FOLDER": "python train.py experiment=icl_is_gd"},
    "tasks/momentum/README.md": {"SWEEP_FOLDER": "python train.py experiment=momentum"},
    "tasks/myopia/README.md": {
        "RUN_FOLDER": "python train.py task=myopia mixer=myopic",
        "SWEEP_FOLDER": "python train.py experiment=myopia_synthetic",
    },
    "tasks/picl/README.md": {
        "RUN_FOLDER": "python train.py experiment=picl hydra.mode=RUN task=picl seed=0",
        "SWEEP_FOLDER": "python train.py experiment=picl",
    },
    "tasks/time_vectors/README.md": {
        "SWEEP_FOLDER": NEWS_SWEEP,
        "LM_SWEEP": OWN_NEWS,
        "RUN_FOLDER": "python train.py task=time_vectors data=dated data.path=FILE.jsonl data.first=2015 "
        "data.every=2 data.period=base",
        "TASK_SWEEP": next((c.text for c in COMMANDS if "LM_SWEEP '" in c.text), ""),
        **{name: (NEWS_SWEEP, "0") for name in ("B",)},
        **{name: (NEWS_SWEEP, "1") for name in ("M", "M1", "LM_2012")},
        **{name: (NEWS_SWEEP, "2") for name in ("M2", "LM_2016")},
        **{name: (NEWS_SWEEP, "3") for name in ("M3", "TASK_2012")},
    },
}


def small(command: Command) -> list[str]:
    found: dict[str, str] = {}
    for pattern, arguments in SMALL:
        if re.search(pattern, command.text):
            for argument in shlex.split(arguments):
                found[argument.partition("=")[0]] = argument
    return list(found.values())


@pytest.fixture(scope="module")
def desks(tmp_path_factory, corpus):
    """page -> its desk, where what the page calls yours is."""
    cache, made = tmp_path_factory.mktemp("cache"), {}
    variants = tmp_path_factory.mktemp("variants")
    for block in blocks("zoo/README.md", "python", "yaml"):
        name, text = block.removeprefix("# ").split("\n", 1)
        (variants / name).parent.mkdir(parents=True, exist_ok=True)
        (variants / name).write_text(text)

    def desk(page: str) -> Desk:
        if page not in made:
            folder = tmp_path_factory.mktemp("desk")
            (folder / "my_folder").symlink_to(corpus)
            belongings(folder, page)
            (folder / "conf").symlink_to(variants / "conf")
            made[page] = Desk(folder, cache, small=small, made_by=MADE_BY.get(page, {}))
        return made[page]

    with pytest.MonkeyPatch.context() as patch:
        for package in (zoo, zoo.mixers, zoo.positions):  # the variants' files are in their folders
            where = variants / package.__name__.replace(".", "/")
            patch.setattr(package, "__path__", [*package.__path__, str(where)])
        yield desk


def belongings(folder: Path, page: str) -> None:
    """The files of a reader of this page: texts, labelled sets, published weights (of random numbers)."""
    draw = random.Random(0)
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]

    def sentence() -> str:
        return " ".join(draw.choices(words, k=8))

    def rows(path: Path, content: Iterable[dict]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in content))

    if page == "README.md":
        for i in range(30):
            (folder / "notes" / "2026").mkdir(parents=True, exist_ok=True)
            (folder / "notes" / "2026" / f"{i}.md").write_text(f"# Note {i}\n{sentence() * 20}\n")
        texts = Dataset.from_dict({"text": [sentence() * 20 for _ in range(60)]})
        texts.save_to_disk(folder / "roneneldan" / "TinyStories")
    if page in ("README.md", "tasks/icl/README.md"):
        tokenizer = trained_tokenizer(sentence() for _ in range(100))
        shape = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 2}
        shape |= {"num_attention_heads": 2, "max_position_embeddings": 1024}
        for name, theirs, own in (
            ("gpt2", transformers.GPT2Config(**shape), transformers.GPT2LMHeadModel),
            ("EleutherAI/pythia-70m", transformers.GPTNeoXConfig(**shape, intermediate_size=32),
             transformers.GPTNeoXForCausalLM),
        ):  # fmt: skip
            own(theirs).save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)
    for place, answers in (
        ("FOLDER/sst2", ["negative", "positive"]), ("FOLDER/mr", ["negative", "positive"]),
        ("FOLDER/mine", ["sports", "weather"]), ("SETS/sst2", ["negative", "positive"]),
        ("SETS/mr", ["negative", "positive"]), ("SETS/agnews", ["World", "Sports"]),
        ("SETS/trec", ["Entity", "Number"]),
    ):  # fmt: skip
        for split in ("train", "test"):
            rows(folder / place / f"{split}.jsonl", (
                {"text": f"{sentence()} {i}", "label": i % 2, "label_text": answers[i % 2]}
                for i in range(24)
            ))  # fmt: skip
    (folder / "TASKS").mkdir()
    task = {"Definition": "Repeat.", "Positive Examples": [], "Instances": [
        {"input": sentence(), "output": sentence()} for _ in range(2)]}  # fmt: skip
    (folder / "TASKS" / "task1.json").write_text(json.dumps(task))
    (folder / "FILE").write_text("total = 0\nfor i in range(3):\n    total += i\nprint(total)\n")
    rows(folder / "FILE.jsonl", (
        {"text": f"{sentence()} {sentence()} {i}", "date": f"{2015 + i % 8}-03-01",
         "section": ("sports", "weather")[i % 2]} for i in range(400)
    ))  # fmt: skip


def trained_tokenizer(texts: Iterable[str]) -> transformers.PreTrainedTokenizerFast:
    """A byte-level vocabulary of 300."""
    backend = tokenizers.ByteLevelBPETokenizer()
    backend.train_from_iterator(texts, vocab_size=300, special_tokens=["<|endoftext|>"])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend._tokenizer, eos_token="<|endoftext|>"
    )


# Commands of more than about three seconds of processor time.
SLOW = (
    r"launcher=|trainer=ddp|tasks\.search|bench|experiment=|SWEEP|arithmetic|picl.*RUN_FOLDER"
    r"|task=code_execution|code_execution\.(show|downstream)|time_vectors data=|code_execution.datasets"
)
APART = r"launcher=|trainer=ddp"


def case(command: Command):
    slow = re.search(SLOW, command.text) and command.text not in ELSEWHERE
    name = command.text.removeprefix("python ")
    return pytest.param(command, id=name, marks=pytest.mark.slow if slow else ())


# What `-m` says where a package imports its own command; Hydra's word for a report that failed.
@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
@pytest.mark.filterwarnings("error:Callback .* raised")
@pytest.mark.parametrize("command", [case(c) for c in COMMANDS])
def test_command(desks, command, tmp_path):
    desk = desks(command.page)
    if command.text in ELSEWHERE:
        with desk.here():
            built(command, tmp_path)
        return
    left = desk.run(command, apart=bool(re.search(APART, command.text)))
    runs = [] if left == desk.folder else list(left.rglob("status.json"))
    assert all(json.loads(path.read_text())["status"] == "finished" for path in runs)


def built(command: Command, folder: Path) -> None:
    """Everything that a command describes is composed and, where that needs no network, made."""
    if command.module:
        assert execute(command, [*command.arguments, "--help"]) == 0
        return
    arguments = [a.split(",")[0] for a in command.arguments if a != "-m"]
    left_out = [overrides for name, overrides in LEFT_OUT.items() if name in command.text]
    arguments = merged(arguments, " ".join(left_out).split())
    whole = composed(*arguments)
    config = run_folder.plain(whole)
    assert hydra.utils.get_class(whole.hydra.launcher._target_)
    if config["data"]["tokenizer"]["_target_"].endswith("HuggingFace"):
        config["data"]["tokenizer"] = {"_target_": "tasks.data.tokenizers.Bytes"}
    config["trainer"] |= {"accelerator": "cpu", "precision": "32-true"}
    config["trainer"] |= {"logger": False, "enable_checkpointing": False, "max_epochs": 1}
    assert build(config["data"], key="data").context_length == config["model"]["context_length"]
    assert build(config["trainer"], key="trainer").num_nodes == config["trainer"]["num_nodes"]
    config["model"]["vocab_size"] = 50_304
    with torch.device("meta"):
        model = build(config["model"], key="model")
    task = build(
        config["task"],
        key="task",
        model=model,
        optim=build(config["optim"], key="optim"),
        budget=Budget(tokens_per_step=1, default_tokens=1, max_steps=1),
        seed=0,
    )
    assert task.model is model


SNIPPETS = [(page, code) for page in PAGES for code in blocks(page, "python") if code[:2] != "# "]


@pytest.mark.parametrize(
    ("page", "code"),
    [
        pytest.param(*s, id=s[0], marks=pytest.mark.slow if re.search(SLOW, s[1]) else ())
        for s in SNIPPETS
    ],
)
def test_snippet(desks, page, code):
    desk = desks(page)
    desk.prepare(page, code)
    with desk.here():
        exec(compile(code.replace("1_000", "60"), page, "exec"), {})


def test_what_is_not_run_is_on_a_page():
    """Whoever changes a command on a page decides anew whether it can be run."""
    assert set(ELSEWHERE) <= {command.text for command in COMMANDS}
    assert {c.page for c in COMMANDS} | {page for page, _ in SNIPPETS} == set(PAGES)
