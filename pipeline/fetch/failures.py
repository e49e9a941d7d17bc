"""The one place where exceptions of aiohttp, ssl, the operating system and obstore become reasons of the closed list.

Decides as well which failures may pass (`TransientError`) and which say that nobody is there (`no_answer`). No address, path
or header gets into a reason: they can hold signatures. Knows nothing of attempts or back-off.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl

import aiohttp
from obstore.exceptions import BaseError, InvalidPathError, PermissionDeniedError, UnauthenticatedError

from pipeline.errors import FetchError, RowError
from pipeline.schema import Reason

logger = logging.getLogger(__name__)

_OUR_OWN = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM})  # no host's fault
_MAY_PASS = frozenset({errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT}) | _OUR_OWN
_PATH_ERRNOS = frozenset({errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.ENXIO})


class TransientError(FetchError):
    """A failure that may pass. `retry_after_s`: the wait that the server asked for, if it did."""

    def __init__(self, reason: Reason | str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


def row_error(error: Exception) -> RowError:
    """The row's failure that an exception raised while reading its image stands for."""
    if isinstance(error, RowError):
        return error
    logger.debug("fetching failed: %s", type(error).__name__)
    if isinstance(error, asyncio.TimeoutError):
        return TransientError(Reason.TIMEOUT)
    if isinstance(error, BaseError):
        return _of_store(error)
    if isinstance(error, aiohttp.ClientError | ssl.SSLError | ConnectionError):
        return _of_web(error)
    if isinstance(error, OSError):
        return _of_file(error)
    # Hostile bytes can make a parser raise anything: it costs the row, not the run, and shows in the log.
    logger.error("unexpected exception while fetching", exc_info=error)
    return FetchError(Reason.BAD_RESPONSE)


def no_answer(error: Exception) -> bool:
    """Whether a failure before any headers says that the host is down: no connection to it, or silence."""
    if isinstance(error, aiohttp.ClientSSLError | aiohttp.ClientConnectorDNSError):
        return False
    if isinstance(error, OSError) and error.errno in _OUR_OWN:
        return False
    return isinstance(error, asyncio.TimeoutError | aiohttp.ClientConnectionError | ConnectionError)


def _of_web(error: Exception) -> FetchError:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        again = isinstance(error.os_error, socket.gaierror) and error.os_error.errno == socket.EAI_AGAIN
        return TransientError(Reason.DNS) if again else FetchError(Reason.DNS)
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError | ssl.CertificateError):
        return FetchError(Reason.TLS)
    if isinstance(error, aiohttp.ClientConnectorError):
        failed = Reason.CONNECTION_FAILED
        return TransientError(failed) if error.os_error.errno in _MAY_PASS else FetchError(failed)
    if isinstance(error, aiohttp.ClientPayloadError):
        return TransientError(Reason.TRUNCATED_DOWNLOAD)
    if isinstance(error, aiohttp.ClientConnectionError | ConnectionError):
        return TransientError(Reason.CONNECTION_FAILED)
    return FetchError(Reason.BAD_RESPONSE)


def _of_store(error: BaseError) -> FetchError:
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return FetchError(Reason.ACCESS_DENIED)
    if isinstance(error, InvalidPathError):
        return FetchError(Reason.NOT_FOUND)
    if "kind: Timeout" in str(error):  # obstore has no class for it, only its Rust error's text
        return TransientError(Reason.TIMEOUT)
    return TransientError(Reason.STORAGE_ERROR)


def _of_file(error: OSError) -> FetchError:
    """Of a local file; obstore raises FileNotFoundError and PermissionError as well."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return FetchError(Reason.NOT_FOUND)
    if isinstance(error, PermissionError):
        return FetchError(Reason.ACCESS_DENIED)
    return FetchError(Reason.REFUSED_PATH if error.errno in _PATH_ERRNOS else Reason.STORAGE_ERROR)
