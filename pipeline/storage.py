"""Files, wherever they are: the one place that opens file systems, reads, writes, lists and deletes.

Everything goes through fsspec (local, s3://, gs://, any other protocol whose package is installed), and every exception of a
storage library leaves as a `StorageError` of one clear line. A file under its final name is never half a file: object stores
get one PUT, file systems a temporary name, fsync and a rename. URLs of local files are plain absolute paths.
Knows nothing of Parquet, of manifests or of what is stored where. Of credentials it knows only that the SDKs find them.
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
from fsspec.asyn import sync
from fsspec.spec import AbstractFileSystem

from pipeline import local_files
from pipeline.config import StorageConfig
from pipeline.errors import StorageError
from pipeline.local_files import TEMP_SUFFIX
from pipeline.storage_failures import (
    error_codes,
    explain,
    is_missing_bucket,
    is_storage_failure,
    may_pass,
    missing_bucket,
    public_url,
)

CONNECT_TIMEOUT_S = 5.0  # a store that takes longer to accept a connection is down; the read limit is the user's
PROBE_TIMEOUT_S = 10.0  # of the first look at a store
SDK_ATTEMPTS = 3  # with exponential backoff: rides over a 503 or a reset, gives up on a closed port within two seconds
S3FS_ATTEMPTS = 2  # s3fs repeats on top of the SDK, for bodies that break off; its default of 5 makes a dead host cost minutes
MAX_PUT_BYTES = 5 * 1024**3  # AWS's limit of one PUT; above it s3fs uploads parts, which appear as one object at the end
DELETE_BATCH = 1000  # AWS's limit of one DeleteObjects
S3 = frozenset({"s3", "s3a"})
GS = frozenset({"gs", "gcs"})
BUCKET_PROTOCOLS = S3 | GS
SINGLE_PUT_PROTOCOLS = BUCKET_PROTOCOLS | {"az", "abfs", "abfss", "adl", "oci", "hf"}


class Location(NamedTuple):
    """An open file system and where on it. Cheap to make again: in other processes, open the URL there."""

    fs: AbstractFileSystem
    path: str  # as `fs` wants it, without the protocol


class FileInfo(NamedTuple):
    """One file of a listing."""

    url: str
    size: int  # bytes
    version: str  # etag, checksum or modification time, whichever the store has; changes when the file does


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn what storage libraries raise inside the block (or the decorated function) into StorageErrors about `url`.

    Errors of our own and everything that is not about storage pass through untouched.
    """
    try:
        yield
    except Exception as error:
        if not is_storage_failure(error):
            raise
        failure = StorageError(explain(error, url))
        failure.passing = may_pass(error)
        raise failure from error


def protocol_of(url: str) -> str:
    """The lower-case protocol of a URL; `file` for plain paths."""
    protocol, separator, _ = url.partition("://")
    return protocol.lower() if separator else "file"


def is_local(url: str) -> bool:
    """Whether the URL is of this machine's file system."""
    return protocol_of(url) in {"file", "local"}


def open_filesystem(url: str, config: StorageConfig) -> Location:
    """The file system that holds `url`. Connects lazily: no request is made here.

    Instances are shared by the threads of a process and never cross into another one; listings are not cached, because other
    processes write. Raises StorageError for an unknown protocol or one whose package is missing.
    """
    protocol = protocol_of(url)
    if protocol in BUCKET_PROTOCOLS and not url.partition("://")[2].partition("/")[0]:
        raise StorageError(f"no bucket in {url}: write {protocol}://BUCKET/PATH")
    with storage_errors(url):
        fs = _connect(protocol, config, _credentials_in_environment(), os.getpid())
        return Location(fs, str(Path(local_path(url)).absolute()) if is_local(url) else fs._strip_protocol(url))


def local_path(url: str) -> str:
    """The path of a local URL: `file://` taken off."""
    return url.partition("://")[2] if "://" in url else url


def _credentials_in_environment() -> tuple[tuple[str, str], ...]:
    # part of the cache's key: notebooks and tests change them within one process
    return tuple(
        sorted((name, value) for name, value in os.environ.items() if name.startswith(("AWS_", "GOOGLE_", "GCE_", "STORAGE_")))
    )


@functools.lru_cache(maxsize=32)
def _connect(protocol: str, config: StorageConfig, _environment: tuple[tuple[str, str], ...], _pid: int) -> AbstractFileSystem:
    kind = fsspec.get_filesystem_class(protocol)
    if protocol in GS:
        import gcsfs.core

        # not the default class: it asks over gRPC for each bucket's type, for a minute where only HTTPS is let through
        kind = gcsfs.core.GCSFileSystem
        if gcsfs.logger.level == logging.NOTSET:
            gcsfs.logger.setLevel(logging.CRITICAL)  # it logs with a traceback what it raises as well
    fs = kind(use_listings_cache=False, skip_instance_cache=True, **client_options(f"{protocol}://", config))
    if protocol in S3:
        fs.retries = S3FS_ATTEMPTS
    return fs


def client_options(url: str, config: StorageConfig) -> dict[str, Any]:
    """What fsspec's client of the URL's store is made with."""
    protocol = protocol_of(url)
    connect_timeout_s = min(CONNECT_TIMEOUT_S, config.timeout_s)
    if protocol in S3:
        client_config = {
            "connect_timeout": connect_timeout_s,
            "read_timeout": config.timeout_s,
            "retries": {"mode": "standard", "total_max_attempts": SDK_ATTEMPTS},
            "max_pool_connections": 64,
        }
        return {"anon": config.anonymous, "endpoint_url": config.endpoint_url, "config_kwargs": client_config}
    if protocol in GS:
        # not gcsfs's own search for credentials, which tries anonymous access when nothing is found
        return {"requests_timeout": config.timeout_s, "token": "anon" if config.anonymous else "google_default"}
    if protocol in {"http", "https"}:
        import aiohttp

        return {"client_kwargs": {"timeout": aiohttp.ClientTimeout(sock_connect=connect_timeout_s, sock_read=config.timeout_s)}}
    return {}


def probe(url: str, config: StorageConfig) -> None:
    """Raise StorageError, within `PROBE_TIMEOUT_S`, if the store of `url` is down, lacks the bucket or refuses the credentials.

    For the start of a run: later requests are more patient. That the credentials may not list is no error, nor is a path
    that does not exist. Stores without buckets are not asked.
    """
    if protocol_of(url) not in BUCKET_PROTOCOLS:
        return
    fs, path = open_filesystem(url, config)
    bucket = path.partition("/")[0]
    with storage_errors(url):
        try:
            if protocol_of(url) in S3:
                sync(fs.loop, fs._call_s3, "list_objects_v2", Bucket=bucket, MaxKeys=1, timeout=PROBE_TIMEOUT_S)
            else:
                sync(fs.loop, fs._call, "GET", "b/{}/o", bucket, maxResults=1, json_out=True, timeout=PROBE_TIMEOUT_S)
        except FileNotFoundError as error:
            raise StorageError(missing_bucket(public_url(url))) from error
        except OSError as error:
            forbidden = error_codes(error) & {"AccessDenied", "403"} or str(error).startswith("Forbidden")
            if not forbidden:
                raise


def read_bytes(url: str, config: StorageConfig) -> bytes:
    """The whole file. Raises StorageError where it cannot be had."""
    location = open_filesystem(url, config)
    with storage_errors(url):
        # one GET; s3fs otherwise asks for the size first, and a refused HEAD does not say why
        options = {"max_concurrency": 1} if protocol_of(url) in S3 else {}
        return bytes(location.fs.cat_file(location.path, **options))


def write_bytes(url: str, data: bytes, config: StorageConfig) -> None:
    """Write a file, whole or not at all, over one of the same name if there is one. Folders are made as needed."""
    fs, path = open_filesystem(url, config)
    with storage_errors(url):
        if is_local(url):
            local_files.write(Path(path), data)
        elif protocol_of(url) in S3:
            fs.pipe_file(path, data, chunksize=MAX_PUT_BYTES)
        elif protocol_of(url) in SINGLE_PUT_PROTOCOLS:
            fs.pipe_file(path, data)
        else:
            temporary = f"{path}.{secrets.token_hex(4)}{TEMP_SUFFIX}"
            fs.makedirs(fs._parent(path), exist_ok=True)
            fs.pipe_file(temporary, data)
            fs.mv(temporary, path)


def list_files(url: str, config: StorageConfig) -> list[FileInfo]:
    """All files below a folder, recursively, sorted by URL; of a file, itself; of a folder that is not there, none.

    Raises StorageError for a bucket that does not exist, and rather than leaving out a folder that may not be read.
    """
    fs, path = open_filesystem(url, config)
    with storage_errors(url):
        if is_local(url):
            walk = local_files.walk(Path(path))
            found = {str(file): {"type": "file", "size": facts.st_size, "mtime": facts.st_mtime} for file, facts in walk}
        else:
            found = fs.find(path, detail=True)
    files = [_stored_file(name, info, protocol_of(url)) for name, info in found.items() if info.get("type") == "file"]
    return sorted(file for file in files if not file.url.endswith(("/", TEMP_SUFFIX)))


def find_file(url: str, config: StorageConfig) -> FileInfo | None:
    """What a listing would say of this one file; None if there is no such file (or it is a folder).

    Raises StorageError where that cannot be told: no such bucket, denied, unreachable.
    """
    fs, path = open_filesystem(url, config)
    with storage_errors(url):
        try:
            info = fs.info(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            if is_missing_bucket(error):
                raise
            return None
    return _stored_file(path, info, protocol_of(url)) if info.get("type") == "file" else None


def exists(url: str, config: StorageConfig) -> bool:
    """Whether there is such a file (folders are no files). Raises StorageError where that cannot be told."""
    return find_file(url, config) is not None


def glob_files(pattern: str, config: StorageConfig) -> list[FileInfo]:
    """The files that match a pattern of *, **, ? and [...], sorted by URL. Raises StorageError."""
    fs, path = open_filesystem(pattern, config)
    with storage_errors(pattern):
        found = fs.glob(path, detail=True)
    return sorted(_stored_file(name, info, protocol_of(pattern)) for name, info in found.items() if info.get("type") == "file")


def _stored_file(name: str, info: dict[str, Any], protocol: str) -> FileInfo:
    keys = ("ETag", "etag", "blob_id", "md5Hash", "checksum", "mtime", "LastModified", "updated", "created")
    found = next((info[key] for key in keys if info.get(key)), "")
    version = str(found.timestamp() if isinstance(found, datetime) else found)
    url = name if protocol in {"file", "local", "http", "https"} else f"{protocol}://{name.removeprefix('/')}"
    return FileInfo(url, int(info.get("size") or 0), version.strip('"'))


def delete_files(urls: Iterable[str], config: StorageConfig) -> None:
    """Delete files of one store; those that are gone already count as deleted. Raises StorageError if one stays."""
    wanted = list(urls)
    if not wanted:
        return
    fs, _ = open_filesystem(wanted[0], config)
    paths = [open_filesystem(url, config).path for url in wanted]
    with storage_errors(wanted[0]):
        if protocol_of(wanted[0]) in S3:
            _delete_objects(fs, paths)
            return

        def delete(path: str) -> None:
            with suppress(FileNotFoundError):
                fs.rm_file(path)

        with ThreadPoolExecutor(max_workers=16) as pool:
            list(pool.map(delete, paths))


def _delete_objects(fs: AbstractFileSystem, paths: list[str]) -> None:
    # s3fs's own bulk delete reports neither refused keys nor takes names with * ? [ literally
    bucket = fs.split_path(paths[0])[0]
    keys = [{"Key": fs.split_path(path)[1]} for path in paths]
    for start in range(0, len(keys), DELETE_BATCH):
        batch = {"Objects": keys[start : start + DELETE_BATCH], "Quiet": True}
        refused = fs.call_s3("delete_objects", Bucket=bucket, Delete=batch).get("Errors") or []
        if refused:
            first = refused[0]
            detail = f"s3://{bucket}/{first.get('Key')}: {first.get('Code')} {first.get('Message') or ''}".rstrip()
            raise StorageError(f"cannot delete {len(refused)} of {len(keys)} files, first {detail}")


def delete_folder(url: str, config: StorageConfig) -> None:
    """Delete a folder and all below it; one that is not there counts as deleted."""
    if is_local(url):
        path = Path(open_filesystem(url, config).path)
        with storage_errors(url), suppress(FileNotFoundError):
            shutil.rmtree(path)
        return
    delete_files([file.url for file in list_files(url, config)], config)
