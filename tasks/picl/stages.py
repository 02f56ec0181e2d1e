"""The stages of a run's groups, each by itself, and the settings that they belong to.

    python -m tasks.picl.stages STAGE OVERRIDES...        e.g. neighbours experiment=picl seed=1

STAGE is paragraphs, neighbours (with the retriever, the vectors and the index before it), or groups
(with the filter after it). OVERRIDES are those of train.py. What exists is not built again, so a build
that was killed goes on where it was; each ends with a look at what it made.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.data.datamodule import TextData
from tasks.errors import UserError
from tasks.picl.groups import Retrieved
from tasks.picl.paragraphs import Paragraphs, prepare_paragraphs
from zoo.load import build, read_config

STAGES = ("paragraphs", "neighbours", "groups")


def settings(source: Sequence[str]) -> dict[str, Any]:
    """The config of a run's folder, where that is all that is given, or what overrides compose."""
    if len(source) == 1 and (Path(source[0]) / "config.yaml").is_file():
        return read_config(Path(source[0]))
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    from tasks import run_folder, sweep
    from tasks.pretrained import with_checkpoint

    run_folder.register_resolvers()
    sweep.register_resolver()
    GlobalHydra.instance().clear()
    root = Path(__file__).resolve().parents[2] / "conf"
    with initialize_config_dir(str(root), version_base="1.3"):
        config = compose("train", [*source])
    parts = ["pretrained", "model", "task", "data", "tokenizer", "seed", "paths"]
    own = OmegaConf.masked_copy(config, parts)
    for key in sorted(OmegaConf.missing_keys(own)):
        raise UserError(f"{key}: is needed and has no default; give {key}=…")
    content = OmegaConf.to_container(own, resolve=True)
    assert isinstance(content, dict)
    return with_checkpoint(content)  # type: ignore[arg-type]


def open_groups(config: dict[str, Any]) -> tuple[TextData, Retrieved]:
    """The data and the groups of a config; nothing of the groups is built yet."""
    data = build(config["data"], key="data")
    groups = build(config["task"].get("groups"), key="task.groups")
    if not isinstance(groups, Retrieved):
        raise UserError(
            "task.groups: has no neighbours; choose task=picl, picl_untrained, picl_bm25, "
            "picl_random or picl_oracle"
        )
    data.prepare()
    return data, groups


def build_stage(name: str, source: Sequence[str]) -> list[str]:
    """Builds up to a stage; the lines that describe it."""
    config = settings(source)
    data, groups = open_groups(config)
    if name == "paragraphs":
        return about_paragraphs(prepare_paragraphs(data, **groups.cutting))
    if name == "neighbours":
        groups.filter = None
    groups.prepare(data, context_length=config["model"]["context_length"], seed=config["seed"])
    lines = about_paragraphs(groups.paragraphs)
    for index in groups.finder.report().get("kinds", []):
        lines.append(f"index: {index}")
    for key, value in groups.report().items():
        lines.append(f"{key}: {value:.4g}")
    if name == "groups":
        example = groups.sequence(0)
        lines += [f"groups: {len(groups):,}", "the first:", data.tokenizer.decode(example.tokens)]
    return lines


def about_paragraphs(paragraphs: Paragraphs) -> list[str]:
    """How many, how long, and one of them."""
    sample = np.linspace(0, len(paragraphs) - 1, 512).astype(int)
    lengths = [len(paragraphs.tokens(int(i))) for i in sample]
    return [
        f"paragraphs: {len(paragraphs):,} in {len(paragraphs.shards)} shard(s), "
        f"{np.mean(lengths):.1f} tokens each, the longest of 512 {max(lengths)}",
        f"the first: {paragraphs.text(0)[:200]!r}",
    ]


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] not in STAGES:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        print("\n".join(build_stage(given[0], given[1:])))
    except (UserError, ValueError, FileNotFoundError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
