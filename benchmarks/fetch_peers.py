"""img2dataset's side of benchmarks/fetch.py, run by the Python of its own environment: it wants other versions than ours.

    PYTHON benchmarks/fetch_peers.py URLS.txt FOLDER SIDE    ->  one line of JSON: wall_s, cpu_s, images

One process of 64 threads; `dummy` output, so that nothing is written. SIDE 0: bytes as they are (no decoding, no encoding).
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path


def main(urls: str, folder: str, side: int) -> None:
    """Download the list once."""
    from img2dataset import download

    def cpu_s() -> float:
        usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    options = {"disable_all_reencoding": True, "resize_mode": "no"} if not side else {"resize_mode": "keep_ratio"}
    began, began_cpu = time.perf_counter(), cpu_s()
    download(
        url_list=urls,
        output_folder=folder,
        output_format="dummy",
        input_format="txt",
        processes_count=1,
        thread_count=64,
        number_sample_per_shard=100_000,
        image_size=side or 256,
        retries=0,
        timeout=10,
        enable_wandb=False,
        **options,
    )
    wall_s, used_s = time.perf_counter() - began, cpu_s() - began_cpu
    stats = [json.loads(path.read_text()) for path in Path(folder).glob("*_stats.json")]
    print(json.dumps({"wall_s": wall_s, "cpu_s": used_s, "images": sum(one["successes"] for one in stats)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
