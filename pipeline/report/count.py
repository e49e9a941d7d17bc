"""All that is counted of a scored output: one pass, a batch at a time, memory that does not grow with the rows.

Files are counted side by side, each into an account of its own, and accounts are merged in the files' order. A row with a list
of captions is as many pairs as it has captions. Knows nothing of how anything is shown.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from pipeline.config import StorageConfig
from pipeline.dataset_settings import ReportConfig
from pipeline.errors import ManifestError
from pipeline.filters.captions import explode
from pipeline.filters.source import Dataset, Layout, read_batches
from pipeline.report import grid
from pipeline.report.gallery import Gallery, Pairs
from pipeline.schema import Status
from pipeline.shards import Shard
from pipeline.tallies import Key, Tally, host_of

COUNTED = (
    *("itm_score", "itm_logit", "itc_similarity", "status", "error_message"),
    *("image_sha256", "caption_tokens", "caption_truncated"),
)
NEEDED = ("itm_score", "itc_similarity", "status")
MOST_TOKENS = 256  # longer captions count to the last entry
_ROW = "\x00row"  # no column of a file has this name
# What may tell a host, and no more than that of a URL: scheme, user, host and port.
_AUTHORITY = r"^\s*(?P<authority>[A-Za-z][A-Za-z0-9+.-]*://[^/?#\\]*)"


@dataclass
class Account:
    """What was counted."""

    gallery: Gallery
    ticks: tuple[float, ...]  # grid.itm_ticks
    scores: grid.Counts  # pairs that have scores
    rows: int = 0
    pairs: int = 0  # rows, or captions where rows have lists of them
    statuses: Counter[tuple[str, str | None]] = field(default_factory=Counter)  # (status, error_message) -> rows
    failures: Tally = field(default_factory=lambda: Tally({}))  # (host, reason) -> rows that failed
    tokens: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(MOST_TOKENS + 1, np.int64))  # captions by length
    truncated: int = 0  # captions of which the model saw the first tokens only

    @classmethod
    def empty(cls, settings: ReportConfig) -> Account:
        """Nothing counted yet."""
        ticks = grid.itm_ticks(settings.threshold)
        return cls(Gallery(settings.gallery, settings.threshold), ticks, grid.empty(ticks))

    def merge(self, other: Account) -> None:
        """Add what was counted elsewhere."""
        self.rows += other.rows
        self.pairs += other.pairs
        self.scores += other.scores
        self.statuses.update(other.statuses)
        self.failures |= other.failures
        self.tokens += other.tokens
        self.truncated += other.truncated
        self.gallery.merge(other.gallery)


def check_columns(layout: Layout, entries: Sequence[str]) -> None:
    """Raise ManifestError where these files are no output of scoring."""
    missing = [layout.ours(name) for name in NEEDED if layout.ours(name) not in layout.names]
    if missing:
        raise ManifestError(
            f"{', '.join(entries)}: no column {', '.join(missing)}: a report needs what score.py wrote "
            "(--output.column_prefix, if it had one)"
        )


def count_run(number: int, dataset: Dataset, url: str | None, settings: ReportConfig, storage: StorageConfig) -> Account:
    """Count the rows of run `number` of the dataset, whose URLs are in column `url`.

    Raises ManifestError and StorageError as `read_batches` does.
    """
    run, layout = dataset.runs[number], dataset.layout
    account = Account.empty(settings)
    columns = [layout.ours(name) for name in COUNTED] + ([url] if url else [])
    for batch in read_batches(run, layout, storage, columns):
        _count_rows(account, batch, layout, url)
        _count_pairs(account, _exploded(batch, layout, account.rows), layout, number, run)
        account.rows += batch.num_rows
    return account


# ------------------------------------------------------------------ rows


def _count_rows(account: Account, batch: pa.RecordBatch, layout: Layout, url: str | None) -> None:
    rows = pa.table(
        {
            "status": _text(batch, layout.ours("status")),
            "reason": _text(batch, layout.ours("error_message")),
            "url": _text(batch, url),
        }
    )
    for status, reason, count in _grouped(rows, ["status", "reason"]):
        account.statuses[status or "unknown", reason] += count
    at_host = pc.is_in(rows["status"], pa.array([Status.FAILED_TO_DOWNLOAD, Status.FAILED_TO_DECODE]))
    account.failures |= _by_host(rows.filter(at_host))


def _by_host(failed: pa.Table) -> Tally:
    """Failed rows by host and reason, as `tallies` counts them. Python sees distinct authorities only, not every URL."""
    if not failed.num_rows:
        return Tally({})
    authority = pc.struct_field(pc.extract_regex(failed["url"], _AUTHORITY), "authority")
    counts: Counter[Key] = Counter()
    named = pa.table({"authority": authority, "reason": failed["reason"]}).drop_null()
    named = named.filter(pc.string_is_ascii(named["authority"]))  # as all hosts are that `host_of` knows
    for text, reason, count in _grouped(named, ["authority", "reason"]):
        host = host_of(text)
        if host is not None:
            counts[host, reason] += count
    return Tally.of(dict(counts))


def _grouped(table: pa.Table, keys: list[str]) -> list[tuple[str, str, int]]:
    found = table.group_by(keys, use_threads=False).aggregate([([], "count_all")])
    return list(zip(*(found[name].to_pylist() for name in [*keys, "count_all"]), strict=True))


def _text(batch: pa.RecordBatch, name: str | None) -> pa.Array:
    """A column of texts as strings; nulls where the file has none."""
    if name is None or name not in batch.schema.names:
        return pa.nulls(batch.num_rows, pa.string())
    column = batch.column(name)
    return column.cast(pa.string()) if column.type != pa.string() else column


# ------------------------------------------------------------------ pairs


def _exploded(batch: pa.RecordBatch, layout: Layout, first: int) -> pa.RecordBatch:
    """One record a pair, with the number of its row within the run."""
    numbered = batch.append_column(_ROW, pa.array(np.arange(first, first + batch.num_rows)))
    return explode(numbered, layout.lists, layout.ranking) if layout.ranking in layout.lists else numbered


def _count_pairs(account: Account, pairs: pa.RecordBatch, layout: Layout, number: int, run: Shard) -> None:
    account.pairs += pairs.num_rows
    itm, itc = (_floats(pairs, layout.ours(name)) for name in ("itm_score", "itc_similarity"))
    scored = np.isfinite(itm) & np.isfinite(itc)
    account.scores += grid.count(itm[scored], itc[scored], account.ticks)
    tokens = _floats(pairs, layout.ours("caption_tokens"))
    lengths = np.clip(tokens[np.isfinite(tokens)], 0, MOST_TOKENS).astype(np.int64)
    account.tokens += np.bincount(lengths, minlength=MOST_TOKENS + 1)
    account.truncated += int(np.nansum(_floats(pairs, layout.ours("caption_truncated"))))
    rows = pairs.column(_ROW).to_numpy()
    entry = np.arange(len(rows)) - np.searchsorted(rows, rows)
    logit = _floats(pairs, layout.ours("itm_logit"))
    chosen = np.flatnonzero(scored)
    offered = Pairs(
        itm=itm[scored],
        logit=np.where(np.isnan(logit), itm, logit)[scored],
        places=np.column_stack([rows, entry])[scored],
        images=_text(pairs, layout.ours("image_sha256")).take(pa.array(chosen)),
        run=number,
    )
    seed = int.from_bytes(hashlib.sha256(run.name.encode()).digest()[:8], "big")  # the file's own: others may come or go
    account.gallery.offer(offered, seed)


def _floats(pairs: pa.RecordBatch, name: str) -> npt.NDArray[np.floating]:
    """(n,) numbers, NaN for null: float32 where the column is, else float64."""
    if name not in pairs.schema.names:
        return np.full(pairs.num_rows, np.nan)
    column = pairs.column(name)
    kind = column.type if pt.is_float32(column.type) else pa.float64()
    numbers = column.cast(pa.int8()) if pt.is_boolean(column.type) else column
    values: npt.NDArray[np.floating] = numbers.cast(kind).to_numpy(zero_copy_only=False)
    return values
