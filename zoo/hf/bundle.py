"""The modules that a model is built from, flattened into one folder that needs no project.

transformers copies the files that a modelling file imports relatively, and those that they import, by
reading lines `from .name import …`; packages within packages it does not follow. So `zoo.positions.rope`
becomes `zoo_positions_rope.py`, and every import between the modules is rewritten:

    from zoo.positions.base import Position      ->  from .zoo_positions_base import Position
    from kernels.attention import reference      ->  from . import kernels_attention_reference as reference
"""

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.load import ConfigError

_OURS = ("zoo", "kernels")
_NAMESPACE = "transformer_zoo::"  # of operations that modules register with torch
MODELING = Path(__file__).with_name("modeling_zoo.py")


@dataclass(frozen=True)
class Bundle:
    """Files by name, and the model's node with targets that name them."""

    files: dict[str, str]
    node: dict[str, Any]


def bundle(node: dict[str, Any]) -> Bundle:
    """What `node` needs to be built without the project. Raises ConfigError where it cannot be had."""
    targets = sorted({t.rpartition(".")[0] for t in _targets(node)})
    roots = {target.partition(".")[0] for target in targets if _is_ours(target)} | set(_OURS)
    modules = _reachable(targets, roots)
    files = {f"{_flat(name)}.py": _rewritten(name, roots) for name in modules}
    # Operations are registered by name for the whole process: one name for each version of the code.
    digest = hashlib.blake2b("".join(files.values()).encode(), digest_size=6).hexdigest()
    files = {name: text.replace(_NAMESPACE, f"zoo_{digest}::") for name, text in files.items()}
    listed = "".join(f"    from .{_flat(name)} import __name__ as _\n" for name in sorted(modules))
    files[MODELING.name] = (
        MODELING.read_text()
        + "\n\ndef _files() -> None:\n"
        + '    """Never called: transformers fetches the files that these lines name."""\n'
        + listed.replace(" as _\n", " as _  # noqa: F401\n")
    )
    return Bundle(files, _renamed(node, roots))


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        for child in node.values():
            yield from _targets(child)
    elif isinstance(node, list | tuple):
        for child in node:
            yield from _targets(child)


def _renamed(node: Any, roots: set[str]) -> Any:
    if isinstance(node, dict):
        renamed = {name: _renamed(child, roots) for name, child in node.items()}
        target = node.get("_target_", "")
        if target.partition(".")[0] in roots:
            module, _, name = target.rpartition(".")
            renamed["_target_"] = f".{_flat(module)}.{name}"
        return renamed
    if isinstance(node, list | tuple):
        return [_renamed(child, roots) for child in node]
    return node


def _flat(module: str) -> str:
    return module.replace(".", "_")


def _is_ours(module: str) -> bool:
    """True for a module of the project or beside it, false for an installed package."""
    path = _source(module)
    installed = {"site-packages", "dist-packages"} & set(path.parts) if path else True
    return module.partition(".")[0] in _OURS or not installed


def _source(module: str) -> Path | None:
    """The file of a module, None where there is no such module or it has no file."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _read(module: str) -> str:
    path = _source(module)
    if path is None:
        raise ConfigError(f"{module}: its source is not found, so it cannot be exported")
    return path.read_text()


def _imports(module: str, tree: ast.AST, roots: set[str]) -> Iterator[tuple[ast.ImportFrom, str]]:
    """The imports of a module that reach into `roots`, with the full name of what they import from."""
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Import):
            wrong = [a.name for a in statement.names if a.name.partition(".")[0] in roots]
            if wrong:
                raise ConfigError(
                    f"{module}: `import {wrong[0]}` cannot be exported; write `from {wrong[0]} import …`"
                )
        elif isinstance(statement, ast.ImportFrom):
            source = statement.module or ""
            if statement.level:
                parent = module.split(".")[: -statement.level]
                source = ".".join([*parent, *([source] if source else [])])
            if source.partition(".")[0] in roots:
                yield statement, source


def _reachable(modules: list[str], roots: set[str]) -> set[str]:
    """These modules of `roots`, and all that they import of them."""
    found: set[str] = set()
    waiting = [module for module in modules if module.partition(".")[0] in roots]
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found.add(module)
        for statement, source in _imports(module, ast.parse(_read(module)), roots):
            for alias in statement.names:
                inner = f"{source}.{alias.name}"
                waiting.append(inner if _source(inner) else source)
    return found


def _rewritten(module: str, roots: set[str]) -> str:
    """A module's source, its imports between the modules made relative and flat."""
    text = _read(module)
    lines = text.splitlines()
    statements = list(_imports(module, ast.parse(text), roots))
    for statement, source in sorted(statements, key=lambda pair: -pair[0].lineno):
        indent = " " * statement.col_offset
        written, plain = [], []
        for alias in statement.names:
            inner = f"{source}.{alias.name}"
            if _source(inner):
                written.append(f"from . import {_flat(inner)} as {alias.asname or alias.name}")
            else:
                plain.append(ast.unparse(alias))
        if plain:
            written.append(f"from .{_flat(source)} import {', '.join(plain)}")
        assert statement.end_lineno is not None
        lines[statement.lineno - 1 : statement.end_lineno] = [indent + line for line in written]
    return "\n".join(_optional(lines)) + "\n"


def _optional(lines: list[str]) -> Iterator[str]:
    """Imports of triton where transformers does not take it for a requirement: not all have a GPU."""
    for line in lines:
        if line.startswith(("import triton", "from triton")):
            yield from ("try:", f"    {line}", "except ImportError:", "    raise")
        else:
            yield line
