"""Bytes of objects in S3, Google Cloud Storage and Azure, through obstore; one store object a bucket.

Endpoints are the operator's setting, so the address policy does not apply; a row chooses bucket and key, never a host.
Credentials come from the environment, read by obstore itself. Knows nothing of retries.

Calls block, for threads: obstore's asynchronous ones took twice the CPU time an object, and now and then abort the interpreter
as it exits (PyO3/pyo3-async-runtimes#40; one run in six that ended right after a call).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import obstore
from obstore.store import ObjectStore, from_url

from pipeline.config import FetchConfig, StorageConfig
from pipeline.errors import FetchError
from pipeline.fetch.policy import ObjectAddress
from pipeline.schema import Reason

if TYPE_CHECKING:  # types that obstore has for checkers only
    from obstore import GetResult
    from obstore.store import ClientConfig

_DEFAULT_REGION = "us-east-1"  # what S3-compatible stores expect where nobody cares


class ObjectClient:
    """Reads objects of at most `fetch.max_bytes`."""

    def __init__(self, config: FetchConfig, storage: StorageConfig) -> None:
        self._config = config
        self._storage = storage
        self._stores: dict[tuple[str, str], ObjectStore] = {}

    def open(self, address: ObjectAddress) -> GetResult:
        """Ask for an object, its body not read yet; raises FetchError if it is too large, OSError or obstore's BaseError."""
        found = obstore.get(self._store(address.scheme, address.bucket), address.key)
        if found.meta["size"] > self._config.max_bytes:
            raise FetchError(Reason.TOO_LARGE)
        return found

    def _store(self, scheme: str, bucket: str) -> ObjectStore:
        store = self._stores.get((scheme, bucket))
        if store is None:
            store = open_store(scheme, bucket, self._config, self._storage)
            self._stores[scheme, bucket] = store
        return store


def open_store(scheme: str, bucket: str, config: FetchConfig, storage: StorageConfig) -> ObjectStore:
    """obstore's store for a bucket, with our limits; its own retries are off, since the fetcher retries everything alike."""
    options: dict[str, Any] = {"skip_signature": True} if storage.anonymous else {}
    endpoint = None
    if scheme == "s3":
        endpoint = storage.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            options |= {"endpoint": endpoint, "virtual_hosted_style_request": False}
        if not (os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
            options["region"] = _DEFAULT_REGION
    client_options: ClientConfig = {
        "allow_http": bool(endpoint and endpoint.startswith("http://")),
        "connect_timeout": timedelta(seconds=min(config.connect_timeout_s, storage.timeout_s)),
        "timeout": timedelta(seconds=storage.timeout_s),
        "user_agent": config.user_agent,
    }
    open_url: Callable[..., ObjectStore] = from_url  # its overloads want one type of options for each scheme
    return open_url(f"{scheme}://{bucket}", config=options, client_options=client_options, retry_config={"max_retries": 0})
