"""From scores to a dataset: which rows stay, why the others go, and what is written of both.

    source     the scored files, their columns, a stream of their rows
    captions   rows with lists of captions: their best caption, or a row each
    values     columns as compact arrays: numbers, 128-bit keys
    rules      rules of one row at a time, and how rules combine
    ranking    rules that look at all rows: top fractions, quantiles, best of a group, placeholders
    select     first pass: a reason for every row
    write      second pass: the kept, the dropped, the lists for other tools
    run        both passes; what `jobs/filter.py` calls

Needs neither Ray nor torch. Never holds the dataset: of each row that the leading rules leave, it holds the numbers and keys
that the other rules ask for (4 to 40 bytes), and a byte of every row. This file imports nothing.
"""
