"""What flows: the closed lists of statuses and reasons, the scores, and the Arrow schemas of each hand-over.

Knows nothing of where rows come from, of Ray, or of torch. The names are those of DESIGN's glossary; the output's column
names are what users script against.
"""

from __future__ import annotations

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
    TLS = "tls"
    REFUSED_ADDRESS = "refused address"
    REFUSED_SCHEME = "refused scheme"
    REFUSED_PATH = "refused path"
    TOO_MANY_REDIRECTS = "too many redirects"
    BAD_RESPONSE = "bad response"
    TOO_LARGE = "too large"
    TRUNCATED_DOWNLOAD = "truncated download"
    OPTED_OUT = "opted out"
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
    DECODER_CRASHED = "decoder crashed"
    # invalid_row
    NO_IMAGE = "no image"
    BAD_URL = "malformed url"
    NO_CAPTION = "no caption"


def http_reason(code: int) -> str:
    """The reason of an HTTP status that is not a success, e.g. `http 404`."""
    return f"http {code}"


FloatArray = npt.NDArray[np.float32]


class Scores(NamedTuple):
    """Scores of n (image, caption) pairs, all float32, on the host, in the order of the captions (flattened where nested)."""

    itm_logits: FloatArray  # (n, 2): mismatch, match
    itm_score: FloatArray  # (n,): P(match) = softmax(itm_logits)[:, 1]
    itc_similarity: FloatArray  # (n,): cosine of the pair's own image and caption


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
