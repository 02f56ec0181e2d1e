"""What a config built, as something that a stage can be named after."""

import functools
from pathlib import Path
from typing import Any


def describe(value: Any) -> Any:
    """JSON-like and equal for equal settings: calls that still wait by their name and arguments."""
    if isinstance(value, functools.partial):
        given = {str(i): describe(v) for i, v in enumerate(value.args)}
        given |= {name: describe(v) for name, v in sorted(value.keywords.items())}
        return {"call": describe(value.func), **given}
    if isinstance(value, dict):
        return {str(name): describe(v) for name, v in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [describe(v) for v in value]
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, Path):
        return str(value)
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return describe({"class": type(value), **vars(value)})
