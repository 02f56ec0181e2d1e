"""Runs one program and records its trace. Standard library only; to be called inside the sandbox.

    record(code) -> [[line, {name: text}, output], ...]        Refused with a reason otherwise

The steps are those of tasks.code_execution.formats.Step. The program runs with its own copy of the
built-ins in a module called `__main__`; it reads nothing, and what it prints is kept.
"""

import ast
import builtins
import decimal
import gc
import importlib
import io
import json
import re
import sys
from types import CodeType, FrameType, TracebackType
from typing import Any

from tasks.code_execution import tracer_gate as gate
from tasks.code_execution.formats import has_tags
from tasks.code_execution.tracer_changes import FUNCTION, Change, Names, steps
from tasks.code_execution.tracer_gate import Refused
from tasks.code_execution.tracer_instrument import (
    CAUGHT,
    HOOKS,
    LINE,
    LOCALS,
    RETURN,
    instrument,
    statement_lines,
)
from tasks.code_execution.tracer_render import PROGRAM, CannotShow
from tasks.code_execution.tracer_render import table as show_table

MAX_STEPS = 500
MAX_CHARACTERS = 40_000  # of the whole trace
MAX_OUTPUT = 4_000
FILE = "<program>"
RECURSION = 399  # calls of the program; deeper ones would not fit MAX_STEPS
_ADDRESS = re.compile(r" at 0x[0-9a-f]{6}")
for _name in (*sorted(gate.MODULES), "unicodedata"):  # a program in the sandbox can load no file
    importlib.import_module(_name)
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
Step = tuple[int, dict[str, str], str]


def job(payload: bytes) -> bytes:
    """For the sandbox: a program in UTF-8 to JSON, its tracer_changes.Change or the reason why not."""
    try:
        return _encode(trace(payload.decode("utf-8", "surrogatepass"))).encode()
    except Refused as reason:
        return _encode(str(reason)).encode()
    except UnicodeEncodeError:
        return _encode("text that is no Unicode").encode()


def record(code: str, *, gated: bool = True) -> list[Step]:
    """The steps of a program that ends by itself. Raises Refused, with one of a few reasons.

    gated: False skips the look at what the program names (tasks.code_execution.tracer_gate).
    """
    return steps(trace(code, gated=gated))


def trace(code: str, *, gated: bool = True) -> list[Change]:
    """As `record`, by what each line changed."""
    collects = gc.isenabled()
    gc.disable()  # a syntax tree is many young objects that go as they came
    try:
        compiled, names = prepare(code, gated=gated)
    finally:
        if collects:
            gc.enable()
    recorder = Recorder(names, code)
    if "decimal" in code or not code.isascii():  # else no program can have changed it
        decimal.setcontext(decimal.Context())
    stdout, sys.stdout = sys.stdout, recorder.output
    try:
        recorder.run(compiled)
    finally:
        sys.stdout = stdout
    return recorder.result()


def prepare(code: str, *, gated: bool) -> tuple[CodeType, dict[int, tuple[str, ...]]]:
    """Compiled, and the names of its functions (tracer_instrument.Instrumented).

    Raises Refused for text that is no program, or not admitted.
    """
    gate.check_text(code)
    try:
        tree = ast.parse(code)
        if gated and "import" in code:
            gate.check_imports(tree)
        program = instrument(tree)
        compiled = compile(program.tree, FILE, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, OverflowError):
        raise Refused("it does not parse") from None
    except (RecursionError, MemoryError):
        raise Refused("it is nested too deep") from None
    if gated:
        gate.check(compiled)
    return compiled, program.names


class Recorder:
    """What the calls in an instrumented program arrive at."""

    def __init__(self, names: dict[int, tuple[str, ...]], code: str):
        self.names = names
        self.code = code
        self.steps: list[Change] = []
        self.output = _Output(self)
        self.characters = 0
        self.failed: str | None = None
        self.stopped = 0
        self.seen: list[TracebackType] = []
        hooks = {LINE: self.line, RETURN: self.returned, CAUGHT: self.caught, LOCALS: locals}
        self.globals: dict[str, Any] = {
            "__name__": PROGRAM,
            "__builtins__": _builtins(hooks),
        }
        self.module = Names(self.globals)

    def run(self, compiled: CodeType) -> None:
        """Executes the program. Its failure is kept for `result`."""
        limit = sys.getrecursionlimit()
        try:
            sys.setrecursionlimit(_depth() + RECURSION)
            exec(compiled, self.globals)
        except _Stop:
            pass
        except BaseException as error:
            # its class alone: the text of an exception could be a method of the program
            self.failed = self.failed or f"it ends with {_public_name(error)}"
        finally:
            sys.setrecursionlimit(limit)

    def result(self) -> list[Change]:
        """Raises Refused where the program failed, or its trace cannot be kept."""
        if self.failed is None and self.output.parts:
            self.failed = "it prints where no line is reported"
        if self.failed is not None:
            raise Refused(self.failed)
        if not self.steps:
            raise Refused("it has no statements")
        return self.steps

    def line(self, line: int, names: tuple[str, ...] | None = None, table: Any = None) -> None:
        """A statement has completed."""
        if self.failed is not None:
            self.stop()
        try:
            if names is None:
                kind, changed = self.module.changes()
                size = self.module.size
            else:
                kind = FUNCTION
                changed = show_table([(name, table[name]) for name in names if name in table])
                size = sum(map(len, changed.values())) + max(len(changed) - 1, 0)
            output = self.output.take() if self.output.parts else ""
            self.keep((line, kind, changed, output), size)
        except CannotShow as reason:
            self.fail(str(reason))
        except RecursionError:
            self.fail("it calls itself too deep")
        except MemoryError:
            self.fail("it takes too much memory")

    def returned(self, value: Any, line: int, names: tuple[str, ...], table: Any) -> Any:
        """A `return`, between its expression and its caller."""
        self.line(line, names, table)
        return value

    def caught(self) -> None:
        """An exception is about to be handled: reports the lines that it cut short, deepest first."""
        if self.failed is not None:
            self.stop()
        traceback = sys.exc_info()[2]
        entries = []
        while traceback is not None:
            if not any(traceback is known for known in self.seen):
                self.seen.append(traceback)
                entries.append(traceback)
            traceback = traceback.tb_next
        lines = statement_lines(ast.parse(self.code))
        for entry in reversed(entries):
            frame = entry.tb_frame
            line = lines.get(entry.tb_lineno - 1, entry.tb_lineno - 1)
            if _is_module(frame):
                self.line(line)
            elif _is_function(frame):
                names = self.names.get(frame.f_code.co_firstlineno, ())
                self.line(line, names, dict(frame.f_locals))

    def keep(self, step: Change, size: int) -> None:
        """size: characters of the whole table; of one that is kept in part, the rest was looked at."""
        _, _, changed, output = step
        self.steps.append(step)
        self.characters += size + len(output)
        if len(self.steps) > MAX_STEPS:
            self.fail("it runs too many lines")
        if self.characters > MAX_CHARACTERS:
            self.fail("its trace is too long")
        text = "\n".join([*changed.values(), output])
        if "<" in text and has_tags(text):
            self.fail("a tag of the trace in its text")
        if " at 0x" in text and _ADDRESS.search(text):
            self.fail("an address in its text")

    def fail(self, reason: str) -> None:
        """Ends the program."""
        self.failed = self.failed or reason
        self.stop()

    def stop(self) -> None:
        self.stopped += 1
        if self.stopped > 1000:  # it swallows every exception
            raise SystemExit
        raise _Stop


def _builtins(hooks: dict[str, Any]) -> dict[str, Any]:
    """The built-ins of one program: what it does to them, no other program sees."""
    own = _unused.pop() if _unused else dict(vars(builtins))
    own.update(hooks, input=_no_input)
    return own


_unused: list[dict[str, Any]] = []  # to copy them would write to every built-in's reference count


class _Stop(BaseException):
    """Ends a program from within one of its lines."""


class _Output(io.TextIOBase):
    """`sys.stdout` of a program."""

    def __init__(self, recorder: Recorder):
        self.recorder = recorder
        self.parts: list[str] = []
        self.length = 0

    def write(self, text: str) -> int:
        self.length += len(text)
        if self.length > MAX_OUTPUT:
            self.recorder.fail("it prints too much")
        self.parts.append(str.__str__(text))
        return len(text)

    def take(self) -> str:
        text = "".join(self.parts).strip()
        self.parts.clear()
        return text


def _no_input(*prompt: object) -> str:
    raise EOFError


def _depth() -> int:
    frame: FrameType | None = sys._getframe(1)
    depth = 0
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    return depth


def _is_module(frame: FrameType) -> bool:
    return frame.f_code.co_filename == FILE and frame.f_code.co_name == "<module>"


def _is_function(frame: FrameType) -> bool:
    """Of a `def`, not of a lambda, a comprehension (a frame of its own up to 3.11) or a class."""
    code = frame.f_code
    return code.co_filename == FILE and code.co_name[0] != "<" and bool(code.co_flags & 1)


def _public_name(error: BaseException) -> str:
    kind = type(error)
    for base in kind.__mro__:
        if getattr(builtins, base.__name__, None) is base:
            return base.__name__
    return "an exception"


_REHEARSAL = """
from math import floor
def f(n):
    total = 0
    for i in range(n):
        total += i * 2
        if total > 3 and i % 2:
            continue
    return total
class A:
    def __init__(self, v):
        self.v = v
x = f(3)
a = A([x, 1.5])
words = {'a': (1, 2), 'b': {3}}
try:
    y = words['c']
except KeyError:
    y = [k + 'z' for k in words]
while x > 2:
    x -= 1
    print(x, y, sep=' ')
s = ', '.join(sorted(y))
y.append(s[1:])
"""


def rehearse() -> None:
    """For the zygote: runs a program of ours a few times, so that the interpreter has done all once."""
    for _ in range(20):
        job(_REHEARSAL.encode())
    _unused.append(vars(builtins) | dict.fromkeys((*HOOKS, "input")))
