"""What a trace may go on with, as a finite automaton over token ids.

    trace    = [output] line { [output] line }    SingleLine: one table; then the end
    output   = <output> text
    line     = <line> number table              number: one of the program's own lines
    table    = <state> [ pair { <dictsep> pair } ] </state>
    pair     = name : value                     name, text: at least one ordinary token; value: any

The automaton's state is one integer a row, so that restricting and following are two look-ups.

Shapes: R rows, V vocabulary, N automaton states.
"""

import torch
from torch import Tensor

from tasks.code_execution.formats import MAX_LINES, SPECIAL_TOKENS
from tasks.code_execution.tokens import CONTROL, TraceTokens

# States, named after what has just been read.
START, OUTPUT, TEXT, LINE, NUMBER, STATE, NAME, VALUE, PAIR, TABLE, FREE = range(11)
_NUMBERS = [f"<{i}>" for i in range(MAX_LINES)]


class Grammar:
    """The automaton in a tokenizer's ids. single_line: a trace is one table."""

    def __init__(self, tokenizer: TraceTokens, *, single_line: bool = False):
        V = tokenizer.vocab_size
        special = {token: tokenizer.id(token) for token in (*SPECIAL_TOKENS, *CONTROL)}
        self.numbers = [special[number] for number in _NUMBERS]
        plain = torch.ones(V, dtype=torch.bool)
        plain[list(special.values())] = False
        colon = torch.zeros(V, dtype=torch.bool)
        colon[tokenizer.forms(":")] = True

        def only(*tokens: str) -> Tensor:
            return torch.zeros(V, dtype=torch.bool).index_fill_(
                0, torch.tensor([special[t] for t in tokens]), True
            )

        arrows: dict[int, list[tuple[Tensor, int]]] = {
            START: [(only("<line>"), LINE), (only("<output>"), OUTPUT)],
            OUTPUT: [(plain, TEXT)],
            TEXT: [(plain, TEXT), (only("<line>"), LINE)],
            LINE: [(only(*_NUMBERS), NUMBER)],
            NUMBER: [(only("<state>"), STATE)],
            STATE: [(plain & ~colon, NAME), (only("</state>"), TABLE)],
            NAME: [(plain & ~colon, NAME), (colon, VALUE)],
            VALUE: [(plain, VALUE), (only("<dictsep>"), PAIR), (only("</state>"), TABLE)],
            PAIR: [(plain & ~colon, NAME)],
            TABLE: [(only("<line>"), LINE), (only("<output>"), OUTPUT), (only("</s>"), FREE)],
            FREE: [(torch.ones(V, dtype=torch.bool), FREE)],
        }
        if single_line:
            arrows[START] = [(only("<state>"), STATE)]
            arrows[TABLE] = [(only("</s>"), FREE)]
        self.next_NV = torch.full((len(arrows), V), -1)
        for state, ways in arrows.items():
            for tokens_V, target in ways:
                self.next_NV[state, tokens_V] = target

    def start(self, rows: int, device: torch.device) -> Tensor:
        """The states of rows that have written nothing, (R,)."""
        self.next_NV = self.next_NV.to(device)
        return torch.full((rows,), START, device=device)

    def absent_lines(self, prompts: list[list[int]], device: torch.device) -> Tensor:
        """Line numbers that a program does not have, (R, V)."""
        absent = torch.zeros(len(prompts), self.next_NV.shape[1], dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            present = set(prompt) & set(self.numbers)
            absent[row, [n for n in self.numbers if present and n not in present]] = True
        return absent.to(device)

    def restrict(self, scores_RV: Tensor, states_R: Tensor, absent_RV: Tensor) -> Tensor:
        """Scores with -inf for what may not come next."""
        forbidden = (self.next_NV[states_R] < 0) | absent_RV
        return scores_RV.masked_fill(forbidden, -torch.inf)

    def follow(self, states_R: Tensor, tokens_R: Tensor) -> Tensor:
        """The states after one token a row; what was not allowed leads where all is."""
        after = self.next_NV[states_R, tokens_R]
        return torch.where(after < 0, FREE, after)
