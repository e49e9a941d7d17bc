"""Watching a run: metrics for Prometheus, warnings in words, a log of its events, what operators ask of it afterwards.

    observer   a thread beside the driver's loop that looks at the run every few seconds and tells the others
    samples    what is known of a run at one moment, and between two; `chunks` which of them are at work
    rules      what is worth a warning: pure, from samples to sentences
    measures   every metric's name, kind, labels and meaning, and its value: pure
    export     measures to Ray's metrics agent; the one that imports Ray
    journal    OUTPUT/_log/<run>.jsonl, one event a line; OUTPUT/_log/run.json, what came of each run

Nothing here may harm a run: what fails is said once and left out. Knows nothing of how rows are scored, staged or committed.
"""
