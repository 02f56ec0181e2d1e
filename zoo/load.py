"""From a run's folder back to its model: config.yaml says what to build, a checkpoint what it learned.

A config node `{_target_: package.module.Name, key: value, …}` stands for the call Name(key=value, …),
and with `_partial_: true` for the same call still waiting for arguments. Training builds its parts
with the same `build`, so what is trained and what is loaded cannot differ. Building imports and
calls what the config names: load only runs that you trust.
"""

import functools
import importlib
import inspect
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from torch import nn


class ConfigError(ValueError):
    """A config node that cannot be built; the message names the key and the remedy."""


def build(node: Any, *, key: str = "", **overrides: Any) -> Any:
    """Builds what a config node describes, its children first.

    key: where the node stands, for messages. overrides: replace keys of the outermost node.
    Raises ConfigError, naming the key, for an unknown target or argument or a refused value.
    """
    if isinstance(node, Mapping):
        parts = {
            str(name): build(child, key=f"{key}.{name}".lstrip("."))
            for name, child in node.items()
            if name not in ("_target_", "_partial_", "_convert_") and name not in overrides
        } | overrides
        if "_target_" not in node:
            return parts
        return _call(node["_target_"], parts, key, bool(node.get("_partial_")))
    if isinstance(node, list | tuple):
        return [build(child, key=f"{key}[{i}]") for i, child in enumerate(node)]
    return node


def locate(path: str, *, key: str = "") -> Any:
    """The object that a dotted path names. Raises ConfigError where there is none."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        where = f"{key}._target_" if key else "_target_"
        raise ConfigError(f"{where}: cannot import {path!r} ({error})") from error


def _call(path: str, arguments: dict[str, Any], key: str, partial: bool) -> Any:
    target = locate(path, key=key)
    known = keywords(target)
    for name in arguments:
        if known is not None and name not in known:
            raise ConfigError(
                f"{key}.{name}: unknown key; {path} takes {', '.join(sorted(known)) or 'none'}"
            )
        hint = known[name].annotation if known is not None else inspect.Parameter.empty
        if not fits(arguments[name], hint):
            raise ConfigError(f"{key}.{name}: must be {_readable(hint)}, got {arguments[name]!r}")
    if partial:
        return functools.partial(_refusing(target, key), **arguments)
    return _refusing(target, key)(**arguments)


def fits(value: Any, hint: Any) -> bool:
    """True where a config value may stand for an argument annotated so.

    Numbers, text, their unions and literals are checked; a hint that is any other class says
    nothing about what a config holds, and is left to the callee.
    """
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    if hint in (None, type(None)):
        return value is None
    if inspect.isclass(hint) and issubclass(hint, Path):
        return isinstance(value, str | Path)
    if origin in (list, tuple):
        return isinstance(value, list | tuple)
    plain = isinstance(value, bool | int | float | str) or value is None
    return not (plain and inspect.isclass(hint) and hint is not inspect.Parameter.empty)


def _readable(hint: Any) -> str:
    """An annotation as a person would write it."""
    return getattr(hint, "__name__", None) or str(hint).replace("typing.", "")


def _refusing(target: Any, key: str) -> Any:
    """`target`, with the config key in front of what it says when it refuses a value."""

    @functools.wraps(target)
    def call(*positional: Any, **arguments: Any) -> Any:
        try:
            return target(*positional, **arguments)
        except ConfigError:
            raise
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{key}.{error}" if key else str(error)) from error

    return call


def keywords(target: Any) -> dict[str, inspect.Parameter] | None:
    """The keyword arguments of a callable, those of its base classes that it passes on included.

    None where it takes any.
    """
    if not inspect.isclass(target):
        parameters = inspect.signature(target).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return None
        return dict(parameters)
    found: dict[str, inspect.Parameter] = {}
    for cls in target.__mro__:
        if "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(vars(cls)["__init__"]).parameters
        found = {n: p for n, p in parameters.items() if n != "self"} | found
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return {n: p for n, p in found.items() if p.kind is not p.VAR_KEYWORD}


@dataclass(frozen=True)
class Run:
    """A trained run, loaded."""

    folder: Path
    config: dict[str, Any]
    model: nn.Module
    tokenizer: Any


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved config of a run. Raises FileNotFoundError with the remedy."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; give the folder of a run (it has config.yaml)")
    return yaml.safe_load(path.read_text())


def load_run(folder: str | Path, *, checkpoint: str = "best", device: str = "cpu") -> Run:
    """The model of a run's folder, in eval mode, with its tokenizer.

    checkpoint: "best", "last", or a path; a folder that weight arithmetic wrote has model.safetensors
    instead. Raises FileNotFoundError where there is none.
    """
    folder = Path(folder)
    config = read_config(folder)
    model = build(config["model"], key="model")
    path = _weights_of(folder, checkpoint)
    weights = _read_weights(path, device)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path}: does not fit the model of {folder}/config.yaml") from error
    # The module that defines a tokenizer also loads it from where the run saved it.
    defined_in = config["tokenizer"]["_target_"].rpartition(".")[0]
    tokenizer = locate(f"{defined_in}.load_tokenizer")(folder / "tokenizer")
    return Run(folder, config, model.to(device).eval(), tokenizer)


def _weights_of(folder: Path, checkpoint: str) -> Path:
    """The file with a run's weights."""
    named = folder / "checkpoints" / f"{checkpoint}.ckpt"
    for path in (named, Path(checkpoint), folder / "model.safetensors"):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{named}: not found; the run has not saved it (try checkpoint=last, or train longer)"
    )


def _read_weights(path: Path, device: str) -> dict[str, torch.Tensor]:
    """The model's state, tied weights under all their names."""
    if path.suffix != ".safetensors":
        state = torch.load(path, map_location=device, weights_only=True, mmap=True)["state_dict"]
        return {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    with safe_open(path, framework="pt", device=device) as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        ties = file.metadata() or {}
    return weights | {name: weights[kept] for name, kept in ties.items() if kept in weights}
