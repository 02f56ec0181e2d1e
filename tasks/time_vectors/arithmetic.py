"""Arithmetic on checkpoints of any size, in little memory.

    python -m tasks.time_vectors.arithmetic combine --base B --term=W=MODEL … --output O
    python -m tasks.time_vectors.arithmetic diff    --base B --model M --output O
    python -m tasks.time_vectors.arithmetic cosine  --base B MODEL MODEL … [--output O.json]

combine writes B + sum W (MODEL - B): interpolation, analogy, soup, extrapolation are choices of W, which
may be negative, and may differ by the names of the tensors (`--term='0.5,*.mlp.*:0.9=MODEL'`). B and
MODEL are safetensors files, torch checkpoints, folders of Hugging Face (sharded or not) or of a run;
MODEL may also be what `diff` wrote (W times that is added) or a LoRA adapter's folder. Where every MODEL
is an adapter, so is O: the factors are concatenated, which is the exact sum; --merge adds it to B.

O is a file where B is one or O ends in .safetensors, else a folder like B. Integer tensors keep B's
value, tied weights are one, every number is rounded once. O appears whole or not at all.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np

from tasks.errors import UserError
from tasks.time_vectors.adapters import CONFIG, concatenate, summed_config
from tasks.time_vectors.floats import WIDTHS, narrow, wide
from tasks.time_vectors.linear import (
    DIFFERENCE,
    AdapterTerm,
    Coefficient,
    Term,
    combined,
    floating,
    for_each,
    inputs_of,
    open_term,
    read_slice,
    slices,
)
from tasks.time_vectors.output import Growing, Slot, check_free, clean_stop, publish
from tasks.time_vectors.weights import Entry, Weights, open_weights

THREADS = max(1, min(4, os.cpu_count() or 1))
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx")


def combine(
    base: str | Path,
    terms: list[tuple[Coefficient | float, str | Path]],
    output: str | Path,
    *,
    merge: bool = False,
    threads: int = THREADS,
    sync: bool = False,
) -> Path:
    """Writes B + sum W (MODEL - B); see the module for what each may be. Returns `output`.

    Raises UserError, in one line, for models that do not fit each other, and for an output that
    exists or is an input. sync: flush to disk before naming, so that a power cut cannot spoil it.
    """
    output = Path(output)
    weights = open_weights(base)
    opened: list[tuple[Coefficient, Term]] = []
    for weight, path in terms:
        coefficient = weight if isinstance(weight, Coefficient) else Coefficient(float(weight))
        opened.append((coefficient, open_term(str(path), weights)))
    check_free(output, inputs_of(weights, [term for _, term in opened]))
    try:
        adapters = [(c, t) for c, t in opened if isinstance(t, AdapterTerm)]
        if opened and len(adapters) == len(opened) and not merge:
            _write_adapter(output, adapters, sync)
        else:
            _write_model(output, weights, opened, threads, sync)
    finally:
        for closing in [weights, *(term for _, term in opened)]:
            closing.close()
    return output


def _write_model(
    output: Path,
    base: Weights,
    terms: list[tuple[Coefficient, Term]],
    threads: int,
    sync: bool,
) -> None:
    numbers = floating(base)
    as_folder = base.path.is_dir() and output.suffix != ".safetensors"
    files = _files_like(base) if as_folder else {output.name: base.entries}
    metadata = {"format": "pt", **base.metadata, **base.aliases}
    with clean_stop():
        growing: dict[str, Growing] = {}
        try:
            place: dict[str, Growing] = {}
            for file, entries in files.items():
                slots = {n: Slot(e.dtype, e.shape) for n, e in entries.items()}
                growing[file] = Growing(output.absolute().parent, slots, metadata)
                place |= dict.fromkeys(entries, growing[file])

            def work(name: str, start: int, count: int) -> None:
                entry = base.entries[name]
                if name in numbers:
                    content = narrow(combined(base, terms, name, start, count), entry.dtype)
                else:
                    raw = np.empty(count * WIDTHS[entry.dtype], np.uint8)
                    content = base.read(entry, start, raw)
                place[name].write(name, start * WIDTHS[entry.dtype], content)

            for_each(work, slices(base.entries), threads)
            if as_folder:
                publish(output, growing, _companions(base), sync=sync)
            else:
                growing[output.name].name(output.absolute(), sync=sync)
        finally:
            for grown in growing.values():
                grown.close()


def _files_like(base: Weights) -> dict[str, dict[str, Entry]]:
    """The base's shards under names of safetensors, with what each holds."""
    if len(base.files) == 1:
        return {"model.safetensors": base.entries}
    found: dict[str, dict[str, Entry]] = {}
    for name, entry in base.entries.items():
        file = entry.path.name.replace("pytorch_model", "model")
        found.setdefault(str(Path(file).with_suffix(".safetensors")), {})[name] = entry
    return found


def _companions(base: Weights) -> dict[str, Path | bytes]:
    """What else a model's folder needs: configuration, tokenizer, and the index of its shards."""
    folder = base.path
    if (folder / "config.yaml").is_file():
        wanted = [folder / "config.yaml", folder / "tokenizer"]
        return {path.name: path for path in wanted if path.exists()}
    copies: dict[str, Path | bytes] = {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.is_file()
        and not path.name.startswith(".")
        and path.suffix not in _WEIGHTS
        and not path.name.endswith(".index.json")
    }
    files = _files_like(base)
    if len(files) > 1:
        index = {
            "metadata": {"total_size": sum(e.nbytes for e in base.entries.values())},
            "weight_map": {name: file for file, entries in files.items() for name in entries},
        }
        copies["model.safetensors.index.json"] = json.dumps(index, indent=2).encode()
    return copies


def _write_adapter(output: Path, terms: list[tuple[Coefficient, AdapterTerm]], sync: bool) -> None:
    summed = [
        ({name: c.of(own) for own, name in term.names.items()}, term.adapter) for c, term in terms
    ]
    tensors = concatenate(summed)
    config = json.dumps(summed_config([adapter for _, adapter in summed], tensors), indent=2)
    dtype = {np.dtype("float64"): "F64", np.dtype("float32"): "F32"}
    slots = {name: Slot(dtype[values.dtype], values.shape) for name, values in tensors.items()}
    with clean_stop():
        file = Growing(output.absolute().parent, slots, {"format": "pt"})
        try:
            for name, values in tensors.items():
                file.write(name, 0, np.ascontiguousarray(values).reshape(-1).view(np.uint8))
            copies = {CONFIG: config.encode()}
            publish(output, {"adapter_model.safetensors": file}, copies, sync=sync)
        finally:
            file.close()


def diff(
    base: str | Path,
    model: str | Path,
    output: str | Path,
    *,
    threads: int = THREADS,
    sync: bool = False,
) -> Path:
    """Writes the time vector MODEL - B, floating tensors only, in float32 or wider, to one file.

    Of an adapter, the matrices that it changes, whole. Raises UserError as `combine` does.
    """
    output, weights = Path(output), open_weights(base)
    term = open_term(str(model), weights)
    check_free(output, inputs_of(weights, [term]))
    numbers = floating(weights)
    types = {
        name: "F64" if wide([entry.dtype, term.dtype(name) or "F32"]) == np.float64 else "F32"
        for name, entry in numbers.items()
    }
    slots = {name: Slot(types[name], numbers[name].shape) for name in numbers}
    metadata = {"format": "pt", DIFFERENCE: "1", **weights.aliases}
    with clean_stop():
        file = Growing(output.absolute().parent, slots, metadata)
        try:

            def work(name: str, start: int, count: int) -> None:
                dtype = np.dtype(np.float64 if types[name] == "F64" else np.float32)
                if term.dtype(name) is None:
                    values = np.zeros(count, dtype)
                else:
                    b = read_slice(weights, numbers[name], start, count, dtype)
                    values = term.delta(name, start, b)
                file.write(name, start * dtype.itemsize, values.view(np.uint8))

            for_each(work, slices(numbers), threads)
            file.name(output.absolute(), sync=sync)
        finally:
            file.close()
            weights.close()
            term.close()
    return output


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 with one line on stderr."""
    given = _parser().parse_args(arguments)
    try:
        if given.command == "combine":
            terms: list[tuple[Coefficient | float, str | Path]] = []
            for text in given.term:
                weight, equals, path = text.partition("=")
                if not equals or not path:
                    raise UserError(f"--term={text}: must be WEIGHT=MODEL, e.g. --term=0.5=my_run")
                terms.append((Coefficient.parse(weight), path))
            settings = {"merge": given.merge, "threads": given.threads, "sync": given.sync}
            combine(given.base, terms, given.output, **settings)
        elif given.command == "diff":
            diff(given.base, given.model, given.output, threads=given.threads, sync=given.sync)
        else:
            from tasks.time_vectors.cosine import cosine, show

            found = cosine(given.base, given.models, threads=given.threads)
            show(found, given.output)
            return 0
    except (UserError, OSError) as error:
        print(f"arithmetic: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("arithmetic: interrupted; nothing was written", file=sys.stderr)
        return 130
    print(given.output)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tasks.time_vectors.arithmetic",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("combine", help="B + sum W (MODEL - B)")
    one.add_argument("--base", required=True, metavar="B")
    one.add_argument("--term", action="append", default=[], metavar="W=MODEL", help="several times")
    one.add_argument("--output", required=True, type=Path, metavar="O")
    one.add_argument(
        "--merge", action="store_true", help="add adapters to B instead of keeping them"
    )
    two = commands.add_parser("diff", help="M - B")
    two.add_argument("--base", required=True, metavar="B")
    two.add_argument("--model", required=True, metavar="M")
    two.add_argument("--output", required=True, type=Path, metavar="O")
    three = commands.add_parser("cosine", help="cosines between the differences of models from B")
    three.add_argument("--base", required=True, metavar="B")
    three.add_argument("models", nargs="+", metavar="MODEL")
    three.add_argument("--output", type=Path, metavar="O.json")
    for command in (one, two, three):
        command.add_argument("--threads", type=int, default=THREADS)
    for command in (one, two):
        command.add_argument("--sync", action="store_true", help="flush O to disk before naming it")
    return parser


if __name__ == "__main__":
    sys.exit(main())
