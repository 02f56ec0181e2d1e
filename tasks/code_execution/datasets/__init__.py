"""The three data sets, made here: programs, their traces, and how they are split.

    singleline   one to three variables and one line            from a grammar
    tutorial     loops, branches, functions, prints             lessons and a grammar, constants replaced
    codenet      closed programs with their inputs put in       problems, MBPP, HumanEval, scripts; mutated

`Programs` describes data sets, makes what is missing and reads them; `load` gives a split as a
`datasets.Dataset`. A built folder holds SET/{train,val,test}.parquet with the columns of
`tasks.code_execution.formats.COLUMNS`, and manifest.json: what was asked, made and refused, and why.

How they are made: a shard of some five hundred candidates is a pure function of the recipe, the set and
the shard's number; workers trace shards side by side in sandboxes of their own, and the shards are
joined in order, without duplicates, until there are as many programs as asked. So the result depends
on neither the number of workers nor on how often the work was interrupted, and a larger set begins
with the programs of a smaller one.
"""

from tasks.code_execution.datasets.programs import Programs
from tasks.code_execution.datasets.reading import load, read_released

__all__ = ["Programs", "load", "read_released"]
