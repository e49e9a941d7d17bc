"""Fetching, side by side on one machine, one server, the same files of 50 to 200 KB; all traffic on loopback addresses.

    python benchmarks/fetch.py [--only http s3 hosts chunks hostile] [--img2dataset-python PATH] [--rounds N]

    http     images over http, as they are and decoded to 384 x 384: img2dataset, capsieve
    s3       images from a real S3 server: s3fs `cat`, capsieve
    hosts    no host dead; 30 % of the hosts dead or hanging (10 s limit): the fetcher alone
    chunks   the same through the fetch stage, decoding, chunk after chunk in as many processes as Ray would run here
    hostile  1,000 good rows alone; beside rows that hang, drip, flood, lie and redirect for ever

img2dataset wants an environment of its own:
    python3.11 -m venv /tmp/i2d && /tmp/i2d/bin/pip install img2dataset==1.47.0 "setuptools<81"
then --img2dataset-python /tmp/i2d/bin/python. It re-encodes what it resizes, and cannot leave that out.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fetch_clients import (
    FETCH,
    Measured,
    Server,
    fetch_urls,
    hostile_serving,
    img2dataset,
    in_own_process,
    run_chunks,
    s3_objects,
    s3fs_cat,
    serving,
)
from fetch_server import address
from harness import publish
from pictures import web_image

from pipeline.config import ComputeConfig

FILES = 24
SIZES = ((640, 480), (800, 600), (1024, 768))  # 50 to 200 KB at this quality
HOSTS = 600
MISBEHAVIOUR = (
    *("hang", "hang-after-headers", "drip", "drip-headers", "endless", "endless-interim", "length-too-long", "length-huge"),
    *("loop", "to-metadata", "gzip-bomb", "headers-many", "header-long", "reset", "hang-up", "come-back-much-later"),
)
Variants = Mapping[str, Callable[[], Measured]]
HEADER = ["", "images/s", "per client core-second", "times", "spread", "until all rows are decided"]


def make_files(folder: Path) -> None:
    """JPEGs whose sizes are those of web images."""
    for number in range(FILES):
        width, height = SIZES[number % len(SIZES)]
        (folder / f"{number:02}.jpg").write_bytes(web_image(width, height, seed=number))
    sizes = [path.stat().st_size for path in folder.glob("*.jpg")]
    print(f"{len(sizes)} JPEGs of {min(sizes) // 1000} to {max(sizes) // 1000} KB", file=sys.stderr)


def take_turns(variants: Variants, rounds: int) -> dict[str, list[Measured]]:
    """Each variant once a round, in an order that is reversed every other round."""
    found: dict[str, list[Measured]] = {name: [] for name in variants}
    for number in range(rounds):
        for name in list(variants) if number % 2 == 0 else list(reversed(variants)):
            found[name].append(variants[name]())
            print(name, found[name][-1], file=sys.stderr)
    return found


def rows_of(found: Mapping[str, list[Measured]], *, by_cpu: bool) -> tuple[list[list[str]], dict[str, Any]]:
    """Table rows and raw figures; ratios to the first variant, of images per core-second or per second."""
    rates = {name: [run.images / run.wall_s for run in runs] for name, runs in found.items()}
    per_cpu = {name: statistics.median(run.images / run.cpu_s for run in runs) for name, runs in found.items()}
    medians = {name: statistics.median(values) for name, values in rates.items()}
    judged = per_cpu if by_cpu else medians
    first = next(iter(judged.values()))
    rows = []
    for name, runs in found.items():
        spread = (max(rates[name]) - min(rates[name])) / medians[name]
        all_s = statistics.median(run.all_s for run in runs)
        rows.append(
            [
                name,
                f"{medians[name]:,.0f}",
                f"{per_cpu[name]:,.0f}",
                f"{judged[name] / first:.2f}",
                f"{spread:.0%}",
                f"{all_s:.1f} s" if all_s else "",
            ]
        )
    return rows, {name: [run._asdict() for run in runs] for name, runs in found.items()}


def http_urls(server: Server, count: int, first: int = 0, last: int = 0) -> list[str]:
    """URLs spread over the hosts from `first` to `last`."""
    hosts = range(first, last + 1)
    return [f"http://{address(hosts[n % len(hosts)])}:{server.port}/{n}/{n // len(hosts)}.jpg" for n in range(count)]


def http(folder: Path, options: argparse.Namespace) -> dict[str, list[Measured]]:
    """Alone and with decoding; the server's own load beside it."""
    found: dict[str, list[Measured]] = {}
    with serving(folder, 0, "good:0-7") as server:
        for side, count in ((0, 6000), (384, 1500)):
            urls = http_urls(server, count, 0, 7)
            what = "decoded to 384" if side else "as they are"
            variants: dict[str, Callable[[], Measured]] = {}
            if options.img2dataset_python:
                variants[f"http, {what}: img2dataset"] = partial(img2dataset, options.img2dataset_python, urls, side)
            variants[f"http, {what}: capsieve"] = partial(in_own_process, fetch_urls, urls, FETCH, side)
            began = server.cpu_s()
            found |= take_turns(variants, options.rounds)
            print(f"the server used {server.cpu_s() - began:.1f} s of CPU for that", file=sys.stderr)
    return found


def s3(folder: Path, options: argparse.Namespace) -> dict[str, list[Measured]]:
    """A real S3 server."""
    with s3_objects(folder, copies=50) as urls:
        return take_turns(
            {
                "s3: s3fs cat": partial(in_own_process, s3fs_cat, urls),
                "s3: capsieve": partial(in_own_process, fetch_urls, urls),
            },
            options.rounds,
        )


def _dead_and_alive(server: Server, count: int) -> dict[str, list[str]]:
    """URLs of a manifest without dead hosts, and of one with 15 % of its hosts dead and 15 % hanging."""
    alive = int(0.7 * HOSTS)
    good = http_urls(server, int(0.7 * count), 0, alive - 1)
    bad = http_urls(server, int(0.3 * count), alive, HOSTS - 1)
    both = [*good, *bad]
    random.Random(0).shuffle(both)
    return {"none dead": good, "30 % dead or hanging": both}


def _hosts_server(folder: Path) -> Any:
    alive, hanging = int(0.7 * HOSTS), int(0.85 * HOSTS)
    return serving(folder, 50, f"good:0-{alive - 1}", f"hang:{alive}-{hanging - 1}")


def hosts(folder: Path, options: argparse.Namespace) -> dict[str, list[Measured]]:
    """The fetcher alone, with few and with many rows a host: what a host costs until it counts as down, it costs once."""
    found: dict[str, list[Measured]] = {}
    with _hosts_server(folder) as server:
        for rows in (20, 60):
            lists = _dead_and_alive(server, rows * HOSTS)
            variants = {
                f"{rows} rows a host: {name}": partial(in_own_process, fetch_urls, urls) for name, urls in lists.items()
            }
            found |= take_turns(variants, options.rounds)
    return found


def chunks(folder: Path, options: argparse.Namespace) -> dict[str, list[Measured]]:
    """The fetch stage as a run has it. Measured until the last row of the last chunk."""
    defaults = ComputeConfig()
    tasks = int((os.cpu_count() or 1) / defaults.fetch_cpus)
    with _hosts_server(folder) as server, tempfile.TemporaryDirectory() as scratch:
        variants: dict[str, Callable[[], Measured]] = {}
        for name, urls in _dead_and_alive(server, options.chunks * defaults.chunk_rows).items():
            path = f"{scratch}/{len(variants)}.parquet"
            pq.write_table(pa.table({"url": urls, "caption": ["c"] * len(urls)}), path)
            Path(f"{path}.json").write_text(json.dumps(len(urls)))
            chunk_rows = options.chunk_rows or defaults.chunk_rows
            variants[f"fetch stage: {name}"] = partial(run_chunks, path, chunk_rows, tasks)
        return take_turns(variants, 1)


def hostile(folder: Path, options: argparse.Namespace) -> dict[str, list[Measured]]:
    """1,000 good rows, alone and beside five of each misbehaviour, until the last good one came."""
    found: dict[str, list[Measured]] = {}
    with serving(folder, 50, "good:0-19") as server, hostile_serving() as port:
        good = http_urls(server, 1000, 0, 19)
        bad = [f"http://127.0.0.1:{port}/{path}" for path in MISBEHAVIOUR for _ in range(5)]
        both = [*good, *bad]
        random.Random(0).shuffle(both)
        lists = {"1,000 good rows": good, f"beside {len(bad)} hostile ones": both}
        for side, what in ((0, "as they are"), (384, "decoded to 384")):
            variants = {
                f"{what}: {name}": partial(in_own_process, fetch_urls, urls, FETCH, side, 1000) for name, urls in lists.items()
            }
            found |= take_turns(variants, max(5, options.rounds))
    return found


SECTIONS = {"http": http, "s3": s3, "hosts": hosts, "chunks": chunks, "hostile": hostile}


def main(argv: list[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--img2dataset-python", metavar="PATH", help="Python of an environment that has img2dataset")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunks", type=int, default=40, help="chunks of the section of that name")
    parser.add_argument("--chunk-rows", type=int, help="rows of each; default: compute.chunk_rows")
    options = parser.parse_args(argv)
    if "http" in options.only and not options.img2dataset_python:
        print("img2dataset: not installed (see --help)", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        make_files(Path(scratch))
        for name in options.only:
            found = SECTIONS[name](Path(scratch), options)
            groups: dict[str, dict[str, list[Measured]]] = {}
            for variant, runs in found.items():
                groups.setdefault(variant.partition(":")[0], {})[variant] = runs
            rows, figures = [], {}
            for group in groups.values():
                some, raw = rows_of(group, by_cpu=name in ("http", "s3"))
                rows += some
                figures |= raw
            publish(f"fetch-{name}", HEADER, rows, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
