"""The frozen model of the local arm: its run is named, or found beside the run that asks for it."""

from pathlib import Path
from typing import Any

from torch import nn

from tasks.errors import UserError
from tasks.myopia.arms import arm_of, describe, differences
from tasks.sweep import is_done
from zoo.decoder import Decoder
from zoo.load import load_run, read_config
from zoo.mixers.myopic_past import check_past

BESIDE = "vanilla"


def mixers(model: Decoder) -> list[nn.Module]:
    """The mixer of each layer."""
    return [block.mixer for block in model.blocks]  # type: ignore[misc]


def needs_past(model: Decoder) -> bool:
    """True where a layer attends to a frozen model's states."""
    return any(getattr(mixer, "variant", None) == "frozen" for mixer in mixers(model))


def frozen_model(model: Decoder, source: str | None, folder: Path) -> Decoder:
    """The trained model whose states stand for the past of `model`, which trains in `folder`.

    source: a run's folder, or "vanilla" for the finished run in the same sweep that differs from this
    one in nothing but the arm. Raises UserError, one line, where there is none or it does not fit.
    """
    if source is None:
        raise UserError(
            "task.frozen: variant=frozen attends to the states of a trained vanilla model; give "
            "task.frozen=RUN_FOLDER, or task.frozen=vanilla for the one in the same sweep"
        )
    path = _beside(folder) if source == BESIDE else Path(source)
    if not path.is_dir():
        raise UserError(f"task.frozen: {path} does not exist; give the folder of a finished run")
    try:
        frozen = load_run(path).model
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"task.frozen: {error}") from error
    if not isinstance(frozen, Decoder):
        raise UserError(f"task.frozen: {path} holds a {type(frozen).__name__}, not a Decoder")
    check_past(model, frozen, path)
    return frozen.requires_grad_(False)


def _beside(folder: Path) -> Path:
    """The finished vanilla run in the same sweep, of the same seed and settings."""
    mine = read_config(folder)
    found: dict[Path, dict[str, tuple[Any, Any]]] = {}
    for path in sorted(path for path in folder.parent.iterdir() if is_done(path)):
        config = read_config(path)
        if arm_of(config) == BESIDE:
            found[path] = differences(mine, config)
            if not found[path]:
                return path
    if not found:
        raise UserError(
            f"task.frozen: no finished vanilla run in {folder.parent}; put mixer=softmax first in the "
            "sweep, or give task.frozen=RUN_FOLDER"
        )
    path = min(found, key=lambda path: len(found[path]))
    raise UserError(
        f"task.frozen: {path} is not this run's vanilla arm, it differs in {describe(found[path])}; "
        "train it alike, or give task.frozen=RUN_FOLDER"
    )
