"""Files that several processes want to change: written only if nobody else has changed them meanwhile.

S3 decides it itself (If-None-Match, If-Match; AWS, R2, MinIO, SeaweedFS), on this machine a lock of the folder does. Other
stores get the best that reading before and after can do: of two that write within a moment, both may believe they were first.
Knows nothing of what the files are for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from fsspec.asyn import sync
from fsspec.spec import AbstractFileSystem

from pipeline import local_files
from pipeline.config import StorageConfig
from pipeline.errors import StorageError
from pipeline.storage import S3, is_local, open_filesystem, protocol_of, storage_errors, write_bytes
from pipeline.storage_failures import error_codes, is_missing_bucket

REFUSED_CODES = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
UNSUPPORTED_CODES = frozenset({"NotImplemented", "501"})


class Stored(NamedTuple):
    """A file, and which version of it."""

    data: bytes
    version: str  # S3's ETag; elsewhere a hash of the data


def read(url: str, config: StorageConfig) -> Stored | None:
    """The file, or None if there is none. Raises StorageError where that cannot be told."""
    fs, path = open_filesystem(url, config)
    with storage_errors(url):
        try:
            if protocol_of(url) in S3:
                return _read_object(fs, path)
            data = fs.cat_file(path) if not is_local(url) else Path(path).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            if is_missing_bucket(error):
                raise
            return None
    return Stored(data, local_files.version_of(data))


def swap(url: str, data: bytes, config: StorageConfig, *, version: str | None) -> str | None:
    """Write the file if it still is of that version (None: if there is none). Returns the new version; None where refused.

    A request that is sent twice because its answer was lost is no refusal: `data` must not be what another would write.
    """
    if is_local(url):
        with storage_errors(url):
            written = local_files.swap(Path(open_filesystem(url, config).path), data, version)
        return local_files.version_of(data) if written else None
    if protocol_of(url) in S3:
        new = _put_object(url, data, config, version)
        if new is not None:
            return new
    else:
        before = read(url, config)
        if (before.version if before else None) != version:
            return None
        write_bytes(url, data, config)
    after = read(url, config)
    return after.version if after is not None and after.data == data else None


def _read_object(fs: AbstractFileSystem, path: str) -> Stored:
    bucket, key, _ = fs.split_path(path)

    async def get() -> Stored:
        response = await fs._call_s3("get_object", Bucket=bucket, Key=key)
        async with response["Body"] as body:
            return Stored(await body.read(), str(response["ETag"]))

    found: Stored = sync(fs.loop, get)
    return found


def _put_object(url: str, data: bytes, config: StorageConfig, version: str | None) -> str | None:
    fs, path = open_filesystem(url, config)
    bucket, key, _ = fs.split_path(path)
    condition: dict[str, Any] = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
    try:
        with storage_errors(url):
            return str(fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)["ETag"])
    except StorageError as error:
        cause = error.__cause__ or error
        if isinstance(cause, FileExistsError) or error_codes(cause) & REFUSED_CODES:
            return None
        if version is not None and isinstance(cause, FileNotFoundError) and not is_missing_bucket(cause):
            return None  # AWS's answer to If-Match on what was deleted
        if not error_codes(cause) & UNSUPPORTED_CODES:
            raise
    # an old store that knows no conditions: the best that is left
    write_bytes(url, data, config)
    return None
