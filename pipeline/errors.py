"""Every way to fail, as a tree. What a class means for the user is decided here and nowhere else.

* CapsieveError
  + UserError            the user's mistake: one line that says what, where and what to do; exit code 2
    - ConfigError        a setting that is unknown, missing or out of range
    - StorageError       a bucket, folder or file that cannot be reached, read or written
    - ManifestError      no manifest found, a corrupt Parquet file, a column that is not there
    - CheckpointError    weights that are missing, misshapen, unsafe or not a checkpoint
    - OutputError        an output folder that belongs to another run, a clash of column names
    - ClusterError       processes of the cluster that die again and again at the same work
  + RowError             one row's failure; becomes `status` and `error_message` on that row, the run goes on
    - FetchError         no bytes: status failed_to_download
    - DecodeError        no pixels: status failed_to_decode
    - InvalidRowError    nothing to fetch or nothing to score: status invalid_row

Anything else that escapes is a bug (exit code 1). This module knows nothing of where an error is raised.
"""

from __future__ import annotations

from typing import ClassVar

from pipeline.schema import Reason, Status


class CapsieveError(Exception):
    """Root of the package's own errors."""


class UserError(CapsieveError):
    """The user's mistake; `str(error)` is the one line to print."""

    exit_code: ClassVar[int] = 2


class ConfigError(UserError):
    """A setting that is unknown, missing or out of range."""


class StorageError(UserError):
    """A bucket, folder or file that cannot be reached, read or written."""

    passing = False  # whether waiting may help: a server that restarts, throttles or does not answer


class ManifestError(UserError):
    """No manifest found, a corrupt Parquet file, a column that is not there."""


class CheckpointError(UserError):
    """Weights that are missing, misshapen, unsafe to open or not a checkpoint."""


class OutputError(UserError):
    """An output folder that belongs to another run, or a clash of column names."""


class ClusterError(UserError):
    """Processes of the cluster that die again and again at the same work: memory, a driver, a machine."""


class RowError(CapsieveError):
    """One row's failure. `reason` is from the closed list (`schema.Reason`, or `schema.http_reason(code)`)."""

    status: ClassVar[Status] = Status.INVALID_ROW

    def __init__(self, reason: Reason | str) -> None:
        super().__init__(str(reason))
        self.reason = str(reason)


class FetchError(RowError):
    """No bytes could be had for the row's image."""

    status = Status.FAILED_TO_DOWNLOAD


class DecodeError(RowError):
    """The row's bytes did not become pixels."""

    status = Status.FAILED_TO_DECODE


class InvalidRowError(RowError):
    """The row names no image, or has no caption."""

    status = Status.INVALID_ROW
