"""The whole stream against the slowest of its stages alone, on the same cores, in one run.

    python benchmarks/stream.py alone [--rows N] [--rounds N]   pixels made on the fly at 384 px, a scorer of zeros
    python benchmarks/stream.py demo [--rows N] [--rounds N]    the demo model, images in a local S3
    python benchmarks/stream.py base [--rows N]                 base at 384 px with random weights, images in a local S3

On the demo model's 2 cores the replica has one thread, and so has its stage alone; fetching, the S3 server, staging and the
driver share the other core, and fetching alone is held to one core as well. The S3 server stands for machines elsewhere: it
gives way to the rest where Linux shares cores by session. Base has all cores. Stages alone run before and after each stream.
Start-up is reported apart: a stream counts from its first receipt to its last. Results: results/stream-NAME.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import flow
import pyarrow as pa
from flow import Flow
from harness import publish
from pictures import web_image

from pipeline import cluster, output, run
from pipeline.bottleneck import sentence
from pipeline.commandline import load
from pipeline.config import Config, StorageConfig
from pipeline.local_s3 import LocalS3
from pipeline.model import BLIP_ITM, save_checkpoint
from pipeline.progress import plan_chunks
from pipeline.schema import ScorerProtocol
from pipeline.stages import image_blocks, score_images
from pipeline.storage import write_bytes

BUCKET = "capsieve-bench"
PICTURES = 64  # different ones; each is an object many times over
HEADER = [
    "stream",
    "rows/s once started",
    "slowest stage alone",
    "ratio",
    "spread of ratio, stream, stage",
    "stages alone",
    "start-up",
    "replicas",
]


class Rates(NamedTuple):
    """Rows a second of each stage alone."""

    fetch: float
    score: float
    stage: float


def config_of(manifest: str, out: str, **sections: dict[str, Any]) -> Config:
    """Settings of a benchmark: sections over the defaults."""
    return load(None, {"input": {"manifest": manifest}, "output": {"path": out, "overwrite": True}, **sections})


@contextmanager
def bucket_of(rows: int, folder: Path) -> Iterator[str]:
    """A local S3 server with as many JPEGs of 640x480 as there are rows; yields the manifest's folder."""
    with LocalS3(buckets=[BUCKET]) as server:
        os.environ.update(server.env())
        with suppress(OSError):  # a session of its own: Linux gives it as much as all of Ray's workers otherwise
            Path(f"/proc/{server.pid}/autogroup").write_text("19")
        files = [web_image(640, 480, seed) for seed in range(min(PICTURES, rows))]
        urls = [f"s3://{BUCKET}/{number:06}.jpg" for number in range(rows)]
        for number, url in enumerate(urls):
            write_bytes(url, files[number % len(files)], StorageConfig())
        yield flow.write_manifest(folder / "manifest", urls)


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process, and threads that begin here, on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def stages_alone(config: Config, scorer: ScorerProtocol, rows: int) -> Rates:
    """Each stage on a chunk of the manifest, in this process, on the core that it has in the stream."""
    job = run.begin(run.check(config, flow.Silent()))
    chunk = plan_chunks(job.tracker, rows)[0]
    with one_core():
        fetched, fetch_s = timed(lambda: list(image_blocks(chunk, job.manifest, config, job.model.image_size)))
        score = partial(score_images, scorer=scorer, lists=False)
        score(fetched[0])  # warm
        scored, score_s = timed(lambda: [score(block) for block in fetched])
        _, stage_s = timed(lambda: [output.stage(job.output, job.manifest.shards, block) for block in scored])
    return Rates(rows / fetch_s, rows / score_s, rows / stage_s)


def timed(work: Callable[[], list[pa.Table]]) -> tuple[list[pa.Table], float]:
    """What came of it, and its seconds."""
    began = time.perf_counter()
    done = work()
    return done, time.perf_counter() - began


def alone(rows: int, rounds: int) -> None:
    """The stream itself: nothing fetched, decoded or computed."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = flow.write_manifest(Path(folder) / "manifest", [f"{number}.jpg" for number in range(rows)])
        config = config_of(manifest, f"{folder}/out", model={"image_size": 384}, compute={"block_rows": 128})
        with cluster.joined(config):
            found = [flow.stream(config, flow.ZeroScorer, flow.make_blocks) for _ in range(rounds)]
    rate, spread = median([one.rows_per_s for one in found])
    pixels = 3 * 384 * 384
    row = [
        "pixels made on the fly, 384 px, scores of zeros",
        f"{rate:,.0f}",
        f"{rate * pixels / 1e9:.2f} GB/s",
        f"{spread:.0%}",
        f"{statistics.median(one.first_s for one in found):.1f} s",
    ]
    header = ["stream", "rows/s once started", "pixels", "spread", "start-up"]
    publish("stream-alone", header, [row], {"rounds": [as_json(one) for one in found]})


def demo(rows: int, rounds: int) -> None:
    """The demo model: stages alone and the stream take turns, after a stream that reads programs from disk."""
    with tempfile.TemporaryDirectory() as folder, bucket_of(rows, Path(folder)) as manifest:
        config = config_of(manifest, f"s3://{BUCKET}/out")
        scorer = flow.scorer_of("", 1)
        with cluster.joined(config):
            flow.stream(config, partial(flow.scorer_of, "", 1))
            stages_alone(config, scorer, min(rows, 1024))
            rates, streams = [stages_alone(config, scorer, min(rows, 1024))], []
            for _ in range(rounds):
                streams.append(flow.stream(config, partial(flow.scorer_of, "", 1)))
                rates.append(stages_alone(config, scorer, min(rows, 1024)))
    show("demo", "demo model, images in S3", rates, streams)


def base(rows: int) -> None:
    """The base model on all cores; the scorer alone before and after."""
    rates, cores = [], os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder, bucket_of(rows, Path(folder)) as manifest:
        checkpoint = f"{folder}/base.safetensors"
        save_checkpoint(BLIP_ITM(), Path(checkpoint))
        config = config_of(manifest, f"s3://{BUCKET}/out", model={"checkpoint": checkpoint})
        rates.append(base_alone(config, checkpoint, cores))
        with cluster.joined(config):
            streams = [flow.stream(config, partial(flow.scorer_of, checkpoint, cores))]
        rates.append(base_alone(config, checkpoint, cores))
    show("base", "base at 384 px, images in S3", rates, streams)


def base_alone(config: Config, checkpoint: str, cores: int, rows: int = 32) -> Rates:
    """The scorer alone on all cores; the other stages are a hundred times as fast and left out."""
    job = run.begin(run.check(config, flow.Silent()))
    chunk = plan_chunks(job.tracker, rows)[0]
    scorer = flow.scorer_of(checkpoint, cores)
    (block,) = image_blocks(chunk, job.manifest, config, job.model.image_size)
    score_images(block.slice(0, 2), scorer, lists=False)  # warm
    _, score_s = timed(lambda: [score_images(block, scorer, lists=False)])
    return Rates(float("inf"), rows / score_s, float("inf"))


def show(name: str, title: str, rates: list[Rates], streams: list[Flow]) -> None:
    """One line. A stream's ratio is to what its slowest stage did right before and right after it: a machine's speed drifts."""
    stages = Rates(*(statistics.median(values) for values in zip(*rates, strict=True)))
    slowest = stages.index(min(stages))
    alone = [one[slowest] for one in rates]
    ratios = [one.rows_per_s / statistics.mean(beside) for one, beside in zip(streams, pairwise(alone), strict=True)]
    (ratio, ratio_spread), (rate, spread) = median(ratios), median([one.rows_per_s for one in streams])
    listed = ", ".join(f"{stage} {value:,.1f}" for stage, value in stages._asdict().items() if value != float("inf"))
    start = f"{statistics.median(one.first_s for one in streams):.1f} s"
    spreads = ", ".join(f"{value:.0%}" for value in (ratio_spread, spread, median(alone)[1]))
    row = [title, f"{rate:,.2f}", f"{stages[slowest]:,.2f}", f"{ratio:.0%}", spreads, listed, start]
    alone_rates = [{stage: value for stage, value in one._asdict().items() if value != float("inf")} for one in rates]
    figures = {"rounds": [as_json(one) for one in streams], "alone": alone_rates, "ratios": ratios}
    publish(f"stream-{name}", HEADER, [[*row, sentence(streams[-1].shares)]], figures)


def median(values: list[float]) -> tuple[float, float]:
    """Median, and (largest - smallest) / median."""
    middle = statistics.median(values)
    return middle, (max(values) - min(values)) / middle


def as_json(found: Flow) -> dict[str, Any]:
    """A stream's figures."""
    return {
        **found._asdict(),
        "rows_per_s": found.rows_per_s,
        "shares": found.shares._asdict(),
        "resources": found.resources._asdict(),
    }


def main(argv: list[str]) -> int:
    """Run one of the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["alone", "demo", "base"])
    parser.add_argument("--rows", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    # Ray's workers import `flow` too
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    if options.which == "alone":
        alone(options.rows or 24_000, options.rounds)
    elif options.which == "demo":
        demo(options.rows or 6_000, options.rounds)
    else:
        base(options.rows or 96)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
