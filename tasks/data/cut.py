"""Long text into documents, at blank lines where there are any."""

from collections.abc import Iterable, Iterator


def cut(
    parts: Iterable[str], *, separator: str | None = None, whole: int, piece: int
) -> Iterator[str]:
    """Documents of a stream of text, which is never held as a whole.

    Where `separator` stands, a document ends. One longer than `whole` characters is cut into
    pieces of at most `piece` and at least half that: after the last blank line that allows it, else
    after the last line, else after the last space. But for separators, nothing is lost.
    """
    margin = len(separator or "")
    buffer, limit = "", whole
    for part in parts:
        buffer += part
        if separator is not None:
            *ended, buffer = buffer.split(separator)
            for text in ended:
                yield from _pieces(text, piece) if len(text) > limit else [text]
                limit = whole
        if len(buffer) > limit + margin:
            # The end stays for what follows it: half a separator, or the rest of a paragraph.
            *done, buffer = _pieces(buffer, piece, margin)
            yield from done
            limit = piece
    yield from _pieces(buffer, piece) if len(buffer) > limit else [buffer]


def _pieces(text: str, piece: int, margin: int = 0) -> list[str]:
    """`text` in pieces; the last has at least `margin` characters, and up to as many too many."""
    pieces: list[str] = []
    start = 0
    while len(text) - start > piece + margin:
        end = _place(text, start + piece // 2, start + piece)
        pieces.append(text[start:end])
        start = end
    return [*pieces, text[start:]]


def _place(text: str, first: int, last: int) -> int:
    """Where to end a piece: after a mark that lies in [first, last), or at `last`."""
    for mark in ("\n\n", "\n", " "):
        found = text.rfind(mark, first, last)
        if found >= 0:
            return found + len(mark)
    return last
