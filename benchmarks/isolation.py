"""The fetch stage on JPEGs that lie in the rows: decoding in its own process against decoding in the worker's.

    python benchmarks/isolation.py [--rounds N] [--images N]

Wall time and CPU time of all processes that take part; `compute.block_rows` images a block, as in a run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from harness import publish
from pictures import CONTENTS, jpeg

from pipeline.config import Config, ImagesConfig
from pipeline.manifest import Manifest, find_manifest
from pipeline.records import Chunk
from pipeline.stages import image_blocks

SIZES = ((640, 480), (1024, 768))
SIDE = 384
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Cost(NamedTuple):
    """Seconds of one pass over all images."""

    wall_s: float
    cpu_s: float


def cpu_s(pid: int) -> float:
    """CPU time of a process and of those that it waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) * TICK_S


def fork_servers() -> list[int]:
    """Children of this process: each has waited for its decoder processes when a pass ends."""
    return [int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]


def run_stage(manifest: Manifest, config: Config) -> Cost:
    """One fetch task over the whole manifest."""
    began, used = time.perf_counter(), sum(map(cpu_s, [os.getpid(), *fork_servers()]))
    for block in image_blocks(Chunk(0, ((0, manifest.rows),)), manifest, config, SIDE):
        assert block["pixels"].null_count == 0
    return Cost(time.perf_counter() - began, sum(map(cpu_s, [os.getpid(), *fork_servers()])) - used)


def main(argv: list[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=2048)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows, figures = [], {}
    for width, height in SIZES:
        different = [jpeg(make(width, height, seed), 85) for seed in range(4) for make in CONTENTS.values()]
        images = [different[number % len(different)] for number in range(options.images)]
        with tempfile.TemporaryDirectory() as folder:
            pq.write_table(pa.table({"image": images, "caption": ["c"] * len(images)}), f"{folder}/m.parquet")
            config = Config.model_validate({"input": {"manifest": f"{folder}/m.parquet"}})
            manifest = find_manifest(config.input, config.storage, len(images))
            here = config.model_copy(update={"images": ImagesConfig(isolate=False)})
            costs: dict[str, list[Cost]] = {"in the worker": [], "isolated": []}
            for number in range(options.rounds + 1):
                for name in sorted(costs, reverse=number % 2 == 0):
                    cost = run_stage(manifest, here if name == "in the worker" else config)
                    costs[name] += [cost] * (number > 0)
        size = f"{width}x{height}"
        figures[size] = {name: [cost._asdict() for cost in several] for name, several in costs.items()}
        wall = {name: statistics.median(cost.wall_s for cost in several) for name, several in costs.items()}
        cpu = {name: statistics.median(cost.cpu_s for cost in several) for name, several in costs.items()}
        rows += [
            [
                size,
                name,
                f"{len(images) / wall[name]:.0f}",
                f"{1000 * cpu[name] / len(images):.2f} ms",
                f"{wall['in the worker'] / wall[name]:.2f} x",
                f"{cpu[name] / cpu['in the worker'] - 1:+.1%}",
            ]
            for name in costs
        ]
    header = ["JPEG", "decoded", "images/s", "CPU time an image", "speed", "CPU time against in the worker"]
    publish("isolation", header, rows, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
