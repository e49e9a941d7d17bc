"""The nightly job: new partitions scored, filtered, reported, and compared with the nights before them.

run.py     what jobs/nightly.py calls: which nights are due, one after the other, and what came of them
steps.py   what is done with one night
nights.py  partitions of the input, records of the output, and what is due of them
judge.py   a night's record, and whether it is in order
alarm.py   who is told when it is not
"""
