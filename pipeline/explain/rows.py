"""Which rows of a scored output are explained: those of given keys, or a sample of the best, the borderline and the worst.

Reads narrow columns, a shard at a time, and keeps no more than it returns. Knows nothing of images or of models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import StorageConfig
from pipeline.dataset_settings import ExplainConfig
from pipeline.errors import ConfigError
from pipeline.manifest import Manifest, read_rows

MAX_ROWS = 1_000  # that keys may name: each costs a forward and half a backward pass, and a picture a word
MAX_NAMED = 5  # in an error
LOGIT, SCORE = "itm_logit", "itm_score"

Floats = npt.NDArray[np.float64]


class Chosen(NamedTuple):
    """A row to explain."""

    shard: int  # index into Manifest.shards
    row: int  # within the shard
    group: str  # best | borderline | worst | key
    key: str  # the user's, the image's URL, or FILE:ROW


class Names(NamedTuple):
    """What rows are called."""

    column: str | None  # of the user's keys, else of URLs
    files: Mapping[str, str]  # an input file's URL -> its path below the manifest's root


def choose(manifest: Manifest, names: Names, prefix: str, config: ExplainConfig, storage: StorageConfig) -> list[Chosen]:
    """The rows to explain, group by group, the first of a group first.

    prefix: of the columns that scoring added. Raises ConfigError for keys that are not there, and for a sample of rows that
    have no scores; ManifestError and StorageError where the rows cannot be read.
    """
    if config.keys:
        return _by_key(manifest, names, config.keys, storage)
    if prefix + LOGIT not in manifest.schema.names:
        raise ConfigError(
            f"these rows have no {prefix + LOGIT} to choose a sample by: name rows with --explain.keys, "
            "or give what score.py wrote as --input.manifest"
        )
    places = _sample(manifest, prefix + LOGIT, config, storage)
    keys = _keys(manifest, names, [place[:2] for place in places], storage)
    return [Chosen(*place, key) for place, key in zip(places, keys, strict=True)]


# ------------------------------------------------------------------ by key


def _by_key(manifest: Manifest, names: Names, wanted: Sequence[str], storage: StorageConfig) -> list[Chosen]:
    order = {key: number for number, key in enumerate(dict.fromkeys(wanted))}
    found: list[Chosen] = []
    for shard, keys in _all_keys(manifest, names, storage):
        hits = pc.is_in(keys, pa.array(order, pa.string()))
        rows = np.flatnonzero(hits.to_numpy(zero_copy_only=False))
        found += [Chosen(shard, int(row), "key", keys[int(row)].as_py()) for row in rows]
        if len(found) > MAX_ROWS:
            raise ConfigError(f"the keys name more than {MAX_ROWS:,} rows: name fewer with --explain.keys")
    missing = [key for key in order if key not in {chosen.key for chosen in found}]
    if missing:
        more = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
        where = f"in column {names.column!r}" if names.column else "among FILE:ROW, with files as below --input.manifest"
        raise ConfigError(f"no such rows {where}: {', '.join(map(repr, missing[:MAX_NAMED]))}{more}: correct --explain.keys")
    return sorted(found, key=lambda chosen: order[chosen.key])


def _all_keys(manifest: Manifest, names: Names, storage: StorageConfig) -> Iterator[tuple[int, pa.Array]]:
    """Of every shard, its rows' keys as strings."""
    for number, shard in enumerate(manifest.shards):
        if names.column is not None:
            yield number, _strings(read_rows(shard, storage, [names.column])[names.column])
        else:
            rows = np.arange(shard.first_row, shard.first_row + shard.rows)
            yield number, pa.array([f"{names.files[shard.file.url]}:{row}" for row in rows.tolist()], pa.string())


def _keys(manifest: Manifest, names: Names, places: Sequence[tuple[int, int]], storage: StorageConfig) -> list[str]:
    """Keys of single rows; FILE:ROW for those whose key is null, too."""
    keys: list[str] = []
    for number, row in places:
        shard = manifest.shards[number]
        own = _strings(read_rows(shard, storage, [names.column], row, row + 1)[names.column]) if names.column else None
        fallback = f"{names.files[shard.file.url]}:{shard.first_row + row}"
        keys.append(fallback if own is None or not own[0].is_valid else own[0].as_py())
    return keys


def _strings(column: pa.ChunkedArray) -> pa.Array:
    plain = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    return pa.concat_arrays(plain.cast(pa.string()).chunks or [pa.array([], pa.string())])


# ------------------------------------------------------------------ by score


def _sample(manifest: Manifest, column: str, config: ExplainConfig, storage: StorageConfig) -> list[tuple[int, int, str]]:
    """(shard, row, group), each row in one group: the best and the worst come first where there are few rows."""
    cut = float(np.log(config.threshold) - np.log1p(-config.threshold))
    wanted = {"best": _Lowest(config.sample), "worst": _Lowest(config.sample), "borderline": _Lowest(3 * config.sample)}
    for number, shard in enumerate(manifest.shards):
        logits = _best_of_row(read_rows(shard, storage, [column])[column])
        rows = np.flatnonzero(np.isfinite(logits))
        logits = logits[rows]
        for group, costs in (("best", -logits), ("worst", logits), ("borderline", np.abs(logits - cut))):
            wanted[group].add(costs, number, rows)
    taken: dict[tuple[int, int], str] = {}
    counts = dict.fromkeys(wanted, 0)
    for group, lowest in wanted.items():
        for place in lowest.places():
            if place not in taken and counts[group] < config.sample:
                taken[place] = group
                counts[group] += 1
    order = ("best", "borderline", "worst")
    return [(*place, group) for name in order for place, group in taken.items() if group == name]


class _Lowest:
    """The k rows of lowest cost of all that were added; of equals, the first."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.costs: Floats = np.empty(0)
        self.rows: npt.NDArray[np.int64] = np.empty((0, 2), np.int64)  # shard, row

    def add(self, costs: Floats, shard: int, rows: npt.NDArray[np.int64]) -> None:
        all_costs = np.concatenate((self.costs, costs))
        all_rows = np.concatenate((self.rows, np.stack((np.full_like(rows, shard), rows), axis=1)))
        first = np.argsort(all_costs, kind="stable")[: self.k]
        self.costs, self.rows = all_costs[first], all_rows[first]

    def places(self) -> list[tuple[int, int]]:
        return [(int(shard), int(row)) for shard, row in self.rows]


def _best_of_row(column: pa.ChunkedArray) -> Floats:
    """(rows,) float64; of a list the highest; NaN for none."""
    if not pa.types.is_list(column.type):
        values: Any = column.cast(pa.float64()).to_numpy()
        return np.asarray(values, np.float64)
    lists = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    best = np.full(len(lists), -np.inf)
    entries = pc.list_flatten(lists).cast(pa.float64()).to_numpy(zero_copy_only=False)
    np.fmax.at(best, pc.list_parent_indices(lists).to_numpy(), entries)
    return np.where(np.isneginf(best), np.nan, best)
