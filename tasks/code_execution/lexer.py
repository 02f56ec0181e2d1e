"""Source text into the tokens that a model reads, the same on every Python version.

The standard tokenizer cuts f-strings differently from 3.12 on, and refuses what does not parse.
"""

import re

_STRING = r"[rbuRBUfF]{0,2}(?:'''(?:\\.|[^\\])*?'''|\"\"\"(?:\\.|[^\\])*?\"\"\"|'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\")"
_NUMBER = r"0[xXoObB][\da-fA-F_]+|(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)?[jJ]?"
_OPERATOR = r"\*\*=?|//=?|>>=?|<<=?|\.\.\.|->|:=|[-+*/%&|^@<>=!]=|[^\s]"
_TOKEN = re.compile(
    rf"(?P<gap>[ \t\f\r]+|\\\n|#[^\n]*)|(?P<newline>\n)"
    rf"|(?P<token>{_STRING}|{_NUMBER}|\w+|{_OPERATOR})",
    re.DOTALL,
)


def tokenize(code: str) -> list[str]:
    """`code_tokens` of a program: `<i>` opens physical line i, then <indent>/<dedent>, then its tokens.

    Lines without a token (blank, comment) have no marker. A string of several lines stands in the
    line where it starts.
    """
    found: list[str] = []
    indents, line, depth = [0], 0, 0
    fresh, logical = True, True  # nothing of this line yet; it opens a statement
    start = 0
    for match in _TOKEN.finditer(code):
        text = match[0]
        if match.lastgroup == "newline":
            line, start = line + 1, match.end()
            fresh, logical = True, depth == 0
            continue
        if match.lastgroup == "gap":
            if text == "\\\n":
                line, fresh, logical = line + 1, True, False
            continue
        if fresh:
            found.append(f"<{line}>")
            if logical:
                found += _blocks(indents, _width(code[start : match.start()]))
            fresh = logical = False
        found.append(text)
        depth = max(0, depth + (text in "([{") - (text in ")]}"))
        line += text.count("\n")
    return found


def _width(blank: str) -> int:
    return len(blank.expandtabs())


def _blocks(indents: list[int], width: int) -> list[str]:
    if width > indents[-1]:
        indents.append(width)
        return ["<indent>"]
    closed = []
    while width < indents[-1]:
        indents.pop()
        closed.append("<dedent>")
    return closed
