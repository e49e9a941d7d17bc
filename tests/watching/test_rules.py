"""When a run is warned of, in which words, and how often: tables of what the driver would have seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from pipeline import sizing
from pipeline.config import Config
from pipeline.records import Chunk
from pipeline.schema import COSTS
from pipeline.sizing import Cluster, Work
from pipeline.watching.chunks import ChunkStates, Late
from pipeline.watching.rules import Kind, Warned, Watch
from pipeline.watching.samples import KEPT_S, Nodes, Past, Sample

RESOURCES = sizing.plan(Config(), Cluster(cpus=8, gpus=0, nodes=1, object_store_bytes=10**9), Work(100_000, 32))
NO_COSTS = dict.fromkeys(COSTS.names, 0.0)
LOOK_S = 5


def sample(at_s: float, **known: Any) -> Sample:
    """A run that stages a hundred rows a second, as it ought to."""
    rows = known.pop("rows", int(100 * at_s))
    healthy = {
        "at_s": at_s,
        "time_s": 1_700_000_000.0 + at_s,
        "rows_total": 1_000_000,
        "rows_done": rows,
        "rows": rows,
        "rows_repeated": 0,
        "blocks": rows // 100,
        "counts": Counter({("success", None): rows}),
        "costs": {**NO_COSTS, "score_s": at_s},
        "passes": 1,
        "began_time_s": 1_700_000_000.0,
        "progress_s": at_s,
        "first_receipt": True,
        "shards_total": 10,
        "shards_committed": 0,
        "commits": 0,
        "commits_running": 0,
        "chunks": ChunkStates(waiting=5, begun=4, ended=40, median_s=10.0),
        "nodes": Nodes(4),
    }
    return Sample(**{**healthy, **known})


def said(samples: Iterable[Sample]) -> list[Warned]:
    watch = Watch([f"s-{number}.parquet" for number in range(10)], RESOURCES)
    return [warned for one in samples for warned in watch.look(one)]


def every_look(until_s: int, make: Callable[[int], Sample], since_s: int = LOOK_S) -> list[Sample]:
    return [make(at_s) for at_s in range(since_s, until_s + 1, LOOK_S)]


def late(age_s: float, shard: int = 3, rows_left: int = 412) -> Late:
    return Late(Chunk(shard, ((2048, 4096),)), age_s, 2048, rows_left)


def silent_since(since_s: int, **known: Any) -> Callable[[int], Sample]:
    """Nothing comes after a second."""
    return lambda at_s: sample(at_s, rows=100 * min(at_s, since_s), progress_s=min(at_s, since_s), **known)


def starving(share: float) -> Callable[[int], Sample]:
    def at(at_s: int) -> Sample:
        costs = {
            "score_s": at_s * (1 - share),
            "starved_s": at_s * share,
            "make_s": RESOURCES.fetch_tasks * at_s,
            "decode_s": 0.4 * at_s,
        }
        return sample(at_s, costs={**NO_COSTS, **costs})

    return at


def failing(since_s: int, share: float) -> Callable[[int], Sample]:
    """Five per cent of the rows fail, and from a second on another share."""

    def at(at_s: int) -> Sample:
        rows, usual = 100 * at_s, 100 * min(at_s, since_s)
        failed = int(0.05 * usual + share * (rows - usual))
        return sample(at_s, counts=Counter({("success", None): rows - failed, ("failed_to_download", "http 403"): failed}))

    return at


def dying(restarts: dict[int, int]) -> Callable[[int], Sample]:
    """At these seconds so many replicas have died."""

    def at(at_s: int) -> Sample:
        count = max((number for since_s, number in restarts.items() if since_s <= at_s), default=0)
        return sample(at_s, costs={**NO_COSTS, "replica_restarts": float(count)})

    return at


@pytest.mark.parametrize(
    ("samples", "kinds", "words"),
    [
        (every_look(1200, sample), [], ""),
        (
            every_look(200, silent_since(60, chunks=ChunkStates(waiting=30, begun=4, ended=6, oldest=[late(70)]))),
            [Kind.NO_PROGRESS],
            "nothing was staged for 120 s: 4 chunks are at work and 30 wait, 994,000 rows are left, at work of s-3.parquet",
        ),
        (
            every_look(300, silent_since(60, rows_done=1_000_000, shards_committed=7)),
            [Kind.NO_PROGRESS],
            "all rows are staged, but no shard was committed for 120 s: 3 are left",
        ),
        (every_look(590, silent_since(0, first_receipt=False)), [], ""),
        (
            every_look(700, silent_since(0, first_receipt=False)),
            [Kind.NO_PROGRESS],
            "no replica has scored anything for 600 s",
        ),
        (every_look(595, silent_since(60)), [Kind.NO_PROGRESS, Kind.NO_PROGRESS], "for 120 s"),  # and four times as long
        (every_look(400, starving(0.2)), [], ""),
        (every_look(290, starving(0.5)), [], ""),
        (
            every_look(400, starving(0.5)),
            [Kind.STARVED],
            "replicas starved 50% of the last 300 s: replicas busy 50%; held back by downloads",
        ),
        (every_look(100, lambda at_s: sample(at_s, chunks=ChunkStates(1, 4, 7, 10.0, [late(90)]))), [], ""),
        (every_look(100, lambda at_s: sample(at_s, chunks=ChunkStates(1, 4, 8, 20.0, [late(90)]))), [], ""),
        (every_look(100, lambda at_s: sample(at_s, chunks=ChunkStates(1, 4, 8, 2.0, [late(55)]))), [], ""),
        (
            every_look(100, lambda at_s: sample(at_s, chunks=ChunkStates(1, 4, 8, 10.0, [late(90), late(70), late(20)]))),
            [Kind.STRAGGLER],
            "rows 2048 to 4095 of s-3.parquet take 90 s, where half of the chunks took no more than 10 s: 412 of 2,048 are "
            "left; so does 1 other chunk",
        ),
        (every_look(1000, failing(500, 0.2)), [], ""),
        (
            every_look(600, failing(300, 0.4)),
            [Kind.FAILURES],
            "25% of the last 6,000 rows failed, 5% of those before: mostly http 403 (1,",
        ),
        (
            every_look(100, dying({10: 1})),
            [Kind.DEATHS],
            "once a replica died and was started again",
        ),
        (every_look(100, dying({10: 1, 20: 2, 30: 3, 40: 4, 50: 7})), [Kind.DEATHS] * 3, "once a replica died"),
        (every_look(100, lambda at_s: sample(at_s, rows_repeated=900)), [], ""),
        (
            every_look(100, lambda at_s: sample(at_s, rows_repeated=1_200)),
            [Kind.REPEATS],
            "1,200 of 500 rows were scored more than once",
        ),
        (
            every_look(100, lambda at_s: sample(at_s, nodes=Nodes(2, ("a", "b", "c", "d")))),
            [Kind.NODES],
            "4 nodes of the cluster are gone (a, b, c and 1 more), 2 are there",
        ),
    ],
)
def test_what_is_said_of_a_run(samples: list[Sample], kinds: list[Kind], words: str) -> None:
    found = said(samples)
    assert [warned.kind for warned in found] == kinds
    assert not found or words in found[0].text
    assert all("\n" not in warned.text for warned in found)


def test_what_comes_back_is_said_again_only_after_a_while() -> None:
    def at(*lost_at: tuple[int, int]) -> list[Warned]:
        def look(at_s: int) -> Sample:
            held = any(first <= at_s <= last for first, last in lost_at)
            return sample(at_s, chunks=ChunkStates(1, 4, 40, 10.0, [late(90)] if held else []))

        return said(every_look(1000, look))

    assert len(at((100, 150), (200, 250), (300, 350))) == 1, "it comes and goes"
    assert len(at((100, 150), (500, 550))) == 2, "it was over for five minutes"
    assert len(at((100, 900))) == 1, "it lasts"


def test_a_pass_that_has_just_begun_is_not_held_against_the_one_before() -> None:
    samples = [*every_look(300, starving(0.5)), *every_look(400, lambda at_s: starving(0.5)(at_s)._replace(passes=2), 305)]
    assert said(samples) == []


def test_the_past_is_as_long_as_the_rules_ask_for_and_no_longer() -> None:
    past = Past()
    for at_s in range(0, 5000, LOOK_S):
        past.add(sample(at_s))
    assert len(past.samples) == KEPT_S / LOOK_S + 1
    for seconds in (60.0, 300.0, KEPT_S):
        before = past.before(seconds)
        assert before is not None
        assert past.samples[-1].at_s - before.at_s == seconds
