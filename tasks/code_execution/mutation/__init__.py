"""Small changes to programs, one operator at one place: the fourteen of the paper, and COI.

    CRP  a constant for another of its type          AOD  -x -> x             COD  not x -> x; not in -> in
    AOR  x + y -> x - y, ...                         LOD  ~x -> x             COI  if x -> if not x; in -> not in
    ASR  x += y -> x -= y, ...                       LOR  x & y -> x | y      LCR  and <-> or
    BCR  break <-> continue                          ROR  x < y -> x <= y     SIR  x[a:b] -> x[a:]
    OIL  one iteration of a loop: body, then break   RIL  for i in reversed(x)    ZIL  for i in x: break

The names and effects are MutPy's (Derezinska and Halas 2014); CRP draws its values, since thousands of
programs have to come of one.
"""

from tasks.code_execution.mutation.mutate import Mutant, mutants, sites
from tasks.code_execution.mutation.operators import OPERATORS, PAPER

__all__ = ["OPERATORS", "PAPER", "Mutant", "mutants", "sites"]
