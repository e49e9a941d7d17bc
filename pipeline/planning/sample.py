"""Which rows of a manifest are measured: runs of neighbours at places spread over all of it.

Pure. Neighbours, because rows that name one image lie together and are fetched once; several places, because manifests are
often sorted by source. Knows nothing of what is measured.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

from pipeline.manifest import Manifest, Shard

PLACES = 8


def sample(manifest: Manifest, rows: int) -> Manifest:
    """A manifest of at most so many rows, its shards the places: each in one file, none twice. All rows, where they are few."""
    wanted = min(rows, manifest.rows)
    if not wanted:
        return replace(manifest, shards=(), rows=0)
    places = min(PLACES, wanted)
    spans = []
    for place in range(places):
        taken, taken_with_it = wanted * place // places, wanted * (place + 1) // places
        first = taken + (manifest.rows - wanted) * place // places  # what lies between places is left out in equal parts, too
        spans.append((first, first + taken_with_it - taken))
    shards = tuple(shard for span in spans for shard in _cut(manifest, *span))
    return replace(manifest, shards=shards, rows=sum(shard.rows for shard in shards))


def _cut(manifest: Manifest, start: int, stop: int) -> list[Shard]:
    """Rows [start, stop) of the manifest, counted over all shards."""
    cut = []
    ends = accumulate(shard.rows for shard in manifest.shards)
    for shard, end in zip(manifest.shards, ends, strict=True):
        first = end - shard.rows
        low, high = max(start, first), min(stop, end)
        if low < high:
            name = f"sample-{low:012}.parquet"
            cut.append(Shard(name, shard.file, shard.first_row + low - first, high - low))
    return cut


def head(manifest: Manifest, rows: int, most_shards: int) -> Manifest:
    """The first rows of a sample, from as many of its places as `most_shards` and `rows` allow."""
    places = manifest.shards[: max(1, min(most_shards, rows))]
    each = max(1, rows // max(1, len(places)))
    shards = tuple(replace(shard, rows=min(each, shard.rows)) for shard in places)
    return replace(manifest, shards=shards, rows=sum(shard.rows for shard in shards))
