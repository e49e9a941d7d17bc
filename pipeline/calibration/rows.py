"""What samples and labels know rows by, and the column of scores that they are about. Knows nothing of either."""

from __future__ import annotations

from typing import Literal, get_args

import pyarrow as pa
import pyarrow.types as pt

from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.filters.source import Dataset, Layout
from pipeline.filters.values import is_number
from pipeline.shards import Shard

ScoreColumn = Literal["itm_score", "itm_logit", "itc_similarity"]
SCORES: tuple[str, ...] = get_args(ScoreColumn)


def joined_column(dataset: Dataset, column: str, config: Config) -> str:
    """The name that a score has in the data. Raises ConfigError where it is not there, or rows are no rows."""
    layout = dataset.layout
    if layout.exploded:
        raise ConfigError("labels are of rows, and filter.captions explode cuts rows into captions: leave it at keep")
    name = layout.ours(column)
    for url, schema in dataset.schemas.items():
        if name not in schema.names:
            raise ConfigError(f"{url} has no column {name!r}; its columns are {', '.join(schema.names)}")
        kind = schema.field(name).type
        kind = kind.value_type if name in layout.lists and not pt.is_null(kind) else kind
        if not is_number(kind):
            raise ConfigError(f"column {name!r} of {url} is {kind}, no number")
        if layout.key is not None and layout.key not in schema.names:
            raise ConfigError(
                f"{url} has no column {layout.key!r}, by which rows are known; its columns are {', '.join(schema.names)}"
            )
    return name


def row_keys(batch: pa.RecordBatch, run: Shard, first: int, layout: Layout) -> pa.Array:
    """(n,) strings: the user's keys; without a column of keys, the row's file and its number in there.

    first: number of the batch's first row within the run.
    """
    if layout.key is not None:
        column = batch.column(layout.key)
        return (column.dictionary_decode() if pt.is_dictionary(column.type) else column).cast(pa.string())
    start = run.first_row + first
    return pa.array([f"{run.file.url}#{row}" for row in range(start, start + batch.num_rows)], pa.string())
