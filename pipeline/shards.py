"""Shards: where a file's rows are cut, and what the outputs are called.

Both depend on the input files alone, so that a restart finds what an earlier run wrote. Knows nothing of columns, of reading
or of stores; sees of a file no more than its name and the sizes of its row groups.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from pipeline.errors import ManifestError
from pipeline.storage import FileInfo

SUFFIXES = (".parquet", ".parq", ".pq")
MAX_SEGMENT_BYTES = 160  # of a folder's or file's name in the output; file systems take 255, and we append to it
HOSTILE = frozenset('\\:*?"<>|#[]{}')  # in names: not legal on some systems, or patterns to some tools


@dataclass(frozen=True)
class Shard:
    """A contiguous run of rows of one input file: the unit of commit."""

    name: str  # of the output file, relative to the output folder
    file: FileInfo
    first_row: int  # within the file
    rows: int


def cut_file(file: FileInfo, relative: str, group_rows: Sequence[int], max_rows: int) -> list[Shard]:
    """The shards of a file with row groups of these sizes; `relative` is its path below the root of the manifest."""
    name = output_name(relative)
    borders = row_borders(group_rows, max_rows)
    return [
        Shard(f"{name}-{index:05d}.parquet", file, start, stop - start) for index, (start, stop) in enumerate(pairwise(borders))
    ]


def row_borders(group_rows: Sequence[int], max_rows: int) -> list[int]:
    """Where to cut a file with row groups of these sizes: first and last border included, no two further than `max_rows` apart.

    Small row groups go together, large ones are cut evenly, and else every cut is where a row group ends, so that few are read
    for two shards. A file without rows has one empty run, because it has an output too.
    """
    borders = [0]
    for end in accumulate(group_rows):
        start = borders[-1]
        if len(borders) > 1 and end - borders[-2] <= max_rows:
            borders[-1] = end
        elif end > start:
            pieces = math.ceil((end - start) / max_rows)
            borders += [start + (end - start) * piece // pieces for piece in range(1, pieces + 1)]
    return borders if len(borders) > 1 else [0, 0]


def output_name(relative: str) -> str:
    """An output's name without number and suffix: the input's, made harmless."""
    suffix = next((suffix for suffix in SUFFIXES if relative.lower().endswith(suffix)), "")
    stem = relative[: len(relative) - len(suffix)]
    return "/".join(_safe_segment(segment) for segment in stem.lstrip("/").split("/"))


def _safe_segment(segment: str) -> str:
    """No `..`, nothing that readers take for hidden (leading _ or .), no control characters, not too long."""
    name = "".join("_" if character in HOSTILE or not character.isprintable() else character for character in segment)
    name = name.lstrip("._ ").rstrip(" ") or "x"
    if len(name.encode()) > MAX_SEGMENT_BYTES:
        digest = hashlib.sha256(segment.encode()).hexdigest()[:8]
        name = name.encode()[: MAX_SEGMENT_BYTES - 9].decode(errors="ignore") + "~" + digest
    return name


def check_names(shards: Sequence[Shard]) -> None:
    """Raise ManifestError if two files would write the same output."""
    taken: dict[str, str] = {}
    for shard in shards:
        other = taken.setdefault(shard.name.casefold(), shard.file.url)  # some file systems take upper and lower case for one
        if other != shard.file.url:
            raise ManifestError(
                f"{other} and {shard.file.url} would both be written to {shard.name}: "
                "rename one, or name the folder above both as --input.manifest"
            )
