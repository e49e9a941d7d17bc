"""What flows: the closed lists of statuses and reasons, the scores, and the Arrow schemas of each hand-over.

Knows nothing of where rows come from, of Ray, or of torch. The names are those of DESIGN's glossary; the output's column
names are what users script against.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa


class Status(StrEnum):
    """What became of a row: column `status`."""

    SUCCESS = "success"
    FAILED_TO_DOWNLOAD = "failed_to_download"
    FAILED_TO_DECODE = "failed_to_decode"
    INVALID_ROW = "invalid_row"


class Reason(StrEnum):
    """Why a row failed: column `error_message`. Closed and countable; `http_reason` adds the HTTP statuses to it."""

    # failed_to_download
    TIMEOUT = "timeout"
    DNS = "dns"
    CONNECTION_FAILED = "connection failed"
    HOST_DOWN = "host down"
    TLS = "tls"
    REFUSED_ADDRESS = "refused address"
    REFUSED_SCHEME = "refused scheme"
    REFUSED_PATH = "refused path"
    TOO_MANY_REDIRECTS = "too many redirects"
    BAD_RESPONSE = "bad response"
    TOO_LARGE = "too large"
    TRUNCATED_DOWNLOAD = "truncated download"
    OPTED_OUT = "opted out"
    CONTENT_CHANGED = "content changed"
    NOT_FOUND = "not found"
    ACCESS_DENIED = "access denied"
    STORAGE_ERROR = "storage error"
    # failed_to_decode
    EMPTY = "empty"
    NOT_AN_IMAGE = "not an image"
    HTML = "html, not an image"
    SVG = "svg, not a raster image"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt image"
    TOO_MANY_PIXELS = "too many pixels"
    TOO_SMALL = "too small"
    EXTREME_ASPECT = "extreme aspect ratio"
    TOO_MUCH_MEMORY = "too much memory"
    DECODER_TIMEOUT = "decoder timeout"
    DECODER_CRASHED = "decoder crashed"
    # invalid_row
    NO_IMAGE = "no image"
    BAD_URL = "malformed url"
    NO_CAPTION = "no caption"


def http_reason(code: int) -> str:
    """The reason of an HTTP status that is not a success, e.g. `http 404`."""
    return f"http {code}"


FloatArray = npt.NDArray[np.float32]

SCORE_COLUMNS = (
    "itm_score",
    "itm_logit",
    "itc_similarity",
    "status",
    "error_message",
    "original_width",
    "original_height",
    "image_sha256",
    "caption_tokens",
    "caption_truncated",
)
"""The columns we add, in their order; `image_embedding` follows where it is asked for."""

# What an image cost: seconds of one fetch (many run at a time) and of decoding, bytes read, further attempts of its download.
IMAGE_COSTS = pa.schema(
    [("fetch_s", pa.float32()), ("decode_s", pa.float32()), ("bytes_read", pa.int64()), ("retries", pa.int64())]
)
# What a block cost, on the block's first record: seconds of the fetch task that made it, and for which it then waited for room;
# for which the replica waited for it; of writing its part. `replica_restarts`: 1 where that had died, on its first.
BLOCK_COSTS = pa.schema([(name, pa.float32()) for name in ("make_s", "held_s", "starved_s", "write_s", "replica_restarts")])
# All that is summed into the receipts, and not kept. `score_s`: an image's share of the model call that saw it.
COSTS = pa.schema([*IMAGE_COSTS, ("score_s", pa.float32()), *BLOCK_COSTS])

# One record an image of a chunk, from fetch to replica: all the rows that name this image, and their captions.
IMAGES = pa.schema(
    [
        ("shard", pa.int32()),  # index into Manifest.shards
        ("rows", pa.list_(pa.int64())),  # row numbers within the shard
        ("captions", pa.list_(pa.list_(pa.string()))),  # of each row; null where an entry of a list is no caption
        ("pixels", pa.large_binary()),  # S*S*3 uint8, RGB, row-major; null where status is not success
        ("status", pa.string()),
        ("error_message", pa.string()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
        ("image_sha256", pa.string()),
        *IMAGE_COSTS,
    ]
)


class Receipt(NamedTuple):
    """What staging tells the driver of a part: which rows it holds, and what they cost."""

    shard: int  # index into Manifest.shards
    rows: npt.NDArray[np.int64]  # row numbers within the shard
    counts: Counter[tuple[str, str | None]]  # (status, error_message) -> rows
    costs: dict[str, float]  # by the names of COSTS

    @property
    def succeeded(self) -> int:
        """Rows with scores."""
        return self.counts[Status.SUCCESS, None]


RECEIPT = pa.schema(
    [
        ("shard", pa.int32()),
        ("rows", pa.binary()),  # int64, little-endian
        ("counts", pa.list_(pa.struct([("status", pa.string()), ("reason", pa.string()), ("rows", pa.int64())]))),
        *COSTS,
    ]
)
"""`Receipt` on its way through Arrow."""


def score_schema(*, lists: bool, embedding_dim: int | None = None) -> pa.Schema:
    """The columns we add to a manifest: scalars, or lists aligned with a list<string> caption column."""

    def of(kind: pa.DataType) -> pa.DataType:
        return pa.list_(kind) if lists else kind

    types = {
        "itm_score": of(pa.float32()),
        "itm_logit": of(pa.float32()),
        "itc_similarity": of(pa.float32()),
        "status": pa.dictionary(pa.int8(), pa.string()),
        "error_message": pa.string(),
        "original_width": pa.int32(),
        "original_height": pa.int32(),
        "image_sha256": pa.string(),
        "caption_tokens": of(pa.int16()),
        "caption_truncated": of(pa.bool_()),
    }
    fields = [pa.field(name, types[name]) for name in SCORE_COLUMNS]
    if embedding_dim is not None:
        fields.append(pa.field("image_embedding", pa.list_(pa.float32(), embedding_dim)))
    return pa.schema(fields)


def part_schema(scores: pa.Schema) -> pa.Schema:
    """A staged part: the row's number within its shard, then its scores; status as plain strings until the commit."""
    plain = [pa.field(field.name, pa.string()) if pa.types.is_dictionary(field.type) else field for field in scores]
    return pa.schema([pa.field("row", pa.int64()), *plain])


def scored_schema(scores: pa.Schema) -> pa.Schema:
    """One record a row, from replica to staging."""
    return pa.schema([pa.field("shard", pa.int32()), *part_schema(scores), *COSTS])


class Scores(NamedTuple):
    """Scores of n (image, caption) pairs, all float32, on the host, in the order of the captions (flattened where nested)."""

    itm_logits: FloatArray  # (n, 2): mismatch, match
    itm_score: FloatArray  # (n,): P(match) = softmax(itm_logits)[:, 1]
    itc_similarity: FloatArray  # (n,): cosine of the pair's own image and caption
    image_embedding: FloatArray | None = None  # (B, embed_dim), unit length, one an image


class CaptionLengths(NamedTuple):
    """How the tokenizer saw n captions."""

    tokens: npt.NDArray[np.int16]  # (n,): with [CLS] and [SEP], before truncation; stops counting at 32767
    truncated: npt.NDArray[np.bool_]  # (n,): True where the model saw only the first tokens


Captions = Sequence[str] | Sequence[Sequence[str]]


class ScorerProtocol(Protocol):
    """What the stream asks of a replica; `pipeline.scorer.Scorer` is the real one."""

    def score(self, pixels: npt.NDArray[np.uint8], captions: Captions) -> Scores:
        """Score (B, S, S, 3) uint8 pixels against B captions, or B lists of captions."""
        ...

    def caption_lengths(self, captions: Sequence[str]) -> CaptionLengths:
        """Count the tokens of each caption."""
        ...
