"""What held the replicas back: from the seconds that each stage spent, in shares of its time, to a word and a sentence.

Pure, and a judgement: the thresholds say what is worth telling a person. Knows nothing of how seconds are measured.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

MIN_WALL_S = 5.0  # a shorter run tells of its start, not of its stages
BUSY = 0.85  # from here on more replicas are what makes a run faster
IDLE_SLOTS = 0.5  # fetch tasks at work, of those there is room for: fewer means that there are too few chunks
HELD = 0.5  # of the fetch tasks' time: whoever waits for room so long is not what is missing
STARVED = 0.1  # of the replicas' time


class Cause(StrEnum):
    """What a run's speed hangs on."""

    SCORE = "score"
    DOWNLOAD = "download"
    DECODE = "decode"
    WRITE = "write"
    HAND_OVER = "hand over"
    REPLICA_OVERHEAD = "replica overhead"
    FEW_CHUNKS = "few chunks"
    TOO_SHORT = "too short to tell"


class Shares(NamedTuple):
    """Where time went between the first and the last work of the replicas."""

    wall_s: float
    busy: float  # of the replicas' time: in the model
    starved: float  # of the replicas' time: without a block, though they had had one before
    download: float  # of the fetch tasks' time: no bytes to decode
    decode: float  # of the fetch tasks' time
    held: float  # of the fetch tasks' time: waiting for room
    fetching: float  # fetch tasks running on average, of those there is room for
    write_to_score: float  # seconds of writing a second of scoring


def shares(costs: dict[str, float], *, wall_s: float, replicas: int, fetch_tasks: int) -> Shares:
    """From sums over the receipts (names of `schema.COSTS`)."""
    replica_s, fetch_s = replicas * wall_s, costs["make_s"] + costs["held_s"]
    decode = min(costs["decode_s"], costs["make_s"])
    return Shares(
        wall_s=wall_s,
        busy=_share(costs["score_s"], replica_s),
        starved=_share(costs["starved_s"], replica_s),
        download=_share(costs["make_s"] - decode, fetch_s),
        decode=_share(decode, fetch_s),
        held=_share(costs["held_s"], fetch_s),
        fetching=_share(fetch_s, fetch_tasks * wall_s),
        write_to_score=costs["write_s"] / costs["score_s"] if costs["score_s"] > 0 else 0.0,
    )


def _share(part: float, whole: float) -> float:
    return min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0


def cause_of(found: Shares) -> Cause:
    """The stage to look at first."""
    if found.busy >= BUSY:
        return Cause.SCORE
    if found.wall_s < MIN_WALL_S:
        return Cause.TOO_SHORT
    if found.held >= HELD:  # there is enough to score; it does not get through
        if found.starved < STARVED:
            return Cause.REPLICA_OVERHEAD
        return Cause.WRITE if found.write_to_score >= 0.5 else Cause.HAND_OVER
    if found.fetching < IDLE_SLOTS:
        return Cause.FEW_CHUNKS
    return Cause.DECODE if found.decode >= found.download else Cause.DOWNLOAD


def sentence(found: Shares) -> str:
    """How busy the replicas were, and what to do about it; one line."""
    return f"replicas busy {found.busy:.0%}; {_reason(found)}"


def _reason(found: Shares) -> str:
    match cause_of(found):
        case Cause.SCORE:
            return "scoring sets the pace: more replicas would make it faster"
        case Cause.TOO_SHORT:
            return f"too short a run ({found.wall_s:.0f} s of scoring) to tell what held them back"
        case Cause.DECODE:
            return f"held back by decoding: fetch tasks decoded {found.decode:.0%} of their time; add CPUs"
        case Cause.DOWNLOAD:
            return (
                f"held back by downloads: fetch tasks waited for bytes {found.download:.0%} of their time; "
                "lower compute.fetch_cpus, so that more of them run, or raise fetch.max_in_flight"
            )
        case Cause.WRITE:
            return (
                f"held back by writing parts: {found.write_to_score:.1f} s of it a second of scoring; "
                "look at the output's store"
            )
        case Cause.HAND_OVER:
            return (
                f"held back between the stages: fetch tasks waited for room {found.held:.0%} of their time, and replicas "
                f"for blocks {found.starved:.0%}; raise compute.block_rows"
            )
        case Cause.REPLICA_OVERHEAD:
            return "held back by what replicas do around the model; more replicas would make it faster"
        case Cause.FEW_CHUNKS:
            return f"held back by few chunks: {found.fetching:.0%} of the fetch tasks had one; lower compute.chunk_rows"
