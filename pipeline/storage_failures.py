"""What a failing store means for the user: any library's exception in, one line out that says what, where and what to do.

Knows the exceptions of fsspec, s3fs, gcsfs, botocore, aiohttp, requests and google-auth by name, so that none of them need be
imported (or installed). Knows nothing of what is stored, and never repeats a query string: those carry signatures.
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator
from urllib.parse import urlsplit

LIBRARIES = frozenset({"aiobotocore", "aiohttp", "botocore", "fsspec", "gcsfs", "google", "requests", "s3fs", "urllib3"})
PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "'capsieve[gcs]'",
    "gcs": "'capsieve[gcs]'",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "hf": "huggingface_hub",
    "oci": "ocifs",
    "sftp": "paramiko",
}
LOGIN = {
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS or run `gcloud auth application-default login`",
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
}
WRONG_KEY_CODES = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidSecurity", "AuthFailure"})
EXPIRED_CODES = frozenset({"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestExpired"})
DENIED_CODES = frozenset({"AccessDenied", "AllAccessDisabled", "AccountProblem", "403", "401"})
REGION_CODES = frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"})
NO_CREDENTIALS = frozenset({"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"})
UNREACHABLE = frozenset(
    {
        "EndpointConnectionError",
        "ConnectionClosedError",
        "ConnectTimeoutError",
        "ReadTimeoutError",
        "ConnectionError",
        "ProxyConnectionError",
        "ConnectionTimeoutError",
        "ClientConnectorError",
        "ClientConnectionError",
        "ServerDisconnectedError",
        "FSTimeoutError",
        "SSLError",
        "ConnectTimeout",
        "ReadTimeout",
        "TransportError",
    }
)
# What a server says while it restarts, is overloaded or fails over: the same request may succeed a minute later.
PASSING_CODES = frozenset(
    {
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
        "TooManyRequests",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "InternalError",
        "InternalServerError",
        "OperationAborted",
        "429",
        "500",
        "502",
        "503",
        "504",
    }
)
BROKEN_OFF = frozenset(
    {"ClientPayloadError", "IncompleteRead", "IncompleteReadError", "ResponseStreamingError", "ChunkedEncodingError"}
)


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later: no answer, an answer that breaks off, throttling, a server's own failure."""
    names = _class_names(error)
    if names & (NO_CREDENTIALS | {"SSLError"}) or error_codes(error) & (WRONG_KEY_CODES | EXPIRED_CODES | DENIED_CODES):
        return False
    return bool(names & (UNREACHABLE | BROKEN_OFF | {"TimeoutError"}) or error_codes(error) & PASSING_CODES)


def is_storage_failure(error: BaseException) -> bool:
    """Whether the operating system or a storage library is what raised this, be it as a ValueError or an ImportError."""
    if isinstance(error, OSError) or any(_is_library(cls.__module__) for cls in type(error).__mro__):
        return True
    return isinstance(error, ValueError | ImportError | RuntimeError) and raised_by_library(error)


def raised_by_library(error: BaseException) -> bool:
    """Whether it came through code of a storage library."""
    return any(_is_library(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__))


def _is_library(module: str) -> bool:
    return module.partition(".")[0] in LIBRARIES


def public_url(url: str) -> str:
    """The URL without user and password and, of http, without the query string: fit for logs."""
    protocol, separator, rest = url.partition("://")
    if not separator:
        return url
    host, slash, path = rest.partition("/")
    if protocol.lower() in {"http", "https"}:
        path = path.partition("?")[0]
    return f"{protocol}://{host.rpartition('@')[2]}{slash}{path}"


def explain(error: BaseException, url: str) -> str:
    """One line: what failed, where, what to do."""
    where = public_url(url)
    protocol = url.partition("://")[0].lower() if "://" in url else "file"
    if isinstance(error, ImportError):
        package = f"pip install {PACKAGES[protocol]}" if protocol in PACKAGES else _first_line(error)
        return f"cannot open {where}: {protocol}:// needs a package that is not installed: {package}"
    if isinstance(error, ValueError) and "rotocol not known" in str(error):
        return f"cannot open {where}: unknown protocol {protocol}://; use a local path, s3://, gs:// or another that fsspec has"
    if isinstance(error, ValueError) and "Invalid endpoint" in str(error):
        return f"{_first_line(error)}: --storage.endpoint_url and AWS_ENDPOINT_URL begin with http:// or https://"
    if protocol != "file":
        line = _credentials_line(error, where, protocol) or _store_line(error, where, protocol)
        if line:
            return line
    return _plain_line(error, where)


def _credentials_line(error: BaseException, where: str, protocol: str) -> str | None:
    codes = error_codes(error)
    login = LOGIN["gs" if protocol in {"gs", "gcs"} else "s3"]
    if _class_names(error) & NO_CREDENTIALS:
        return f"no credentials for {where}: {login}; for a public bucket --storage.anonymous true"
    if codes & WRONG_KEY_CODES:
        return f"wrong credentials for {where}: the store does not know the key, or the secret does not match; {login}"
    if codes & EXPIRED_CODES:
        return f"expired credentials for {where}: renew them; {login}"
    if codes & DENIED_CODES or isinstance(error, PermissionError) or "Forbidden" in str(error):
        return f"access denied to {where}: the credentials are wrong, or do not allow it; {login}"
    return None


def _store_line(error: BaseException, where: str, protocol: str) -> str | None:
    codes, names = error_codes(error), _class_names(error)
    if codes & REGION_CODES:
        return f"wrong region for {where}: set AWS_REGION to the bucket's"
    if is_missing_bucket(error):
        return missing_bucket(where)
    if "ParamValidationError" in names:
        return f"not a valid bucket or object name: {where}"
    if names & UNREACHABLE:
        server = _endpoint(error)
        silent = "FSTimeoutError" in names
        what = f"no answer from {server}" if server else "no answer in time" if silent else _first_line(error)
        return f"cannot reach {where}: {what}{_endpoint_hint(protocol)}"
    return None


def _endpoint_hint(protocol: str) -> str:
    hint = "; stores other than AWS need --storage.endpoint_url or AWS_ENDPOINT_URL"
    return hint if protocol in {"s3", "s3a"} else ""


def missing_bucket(where: str) -> str:
    """The line for a URL whose bucket does not exist."""
    protocol, _, path = where.partition("://")
    return f"no such bucket: {path.partition('/')[0]} (of {where}): correct the name, or create it{_endpoint_hint(protocol)}"


def is_missing_bucket(error: BaseException) -> bool:
    """Whether not only the object is missing, but the bucket."""
    return "NoSuchBucket" in error_codes(error) or "bucket does not exist" in str(error).lower()


def error_codes(error: BaseException) -> frozenset[str]:
    """The codes that a store gave: S3's words (`AccessDenied`), or HTTP statuses."""
    return frozenset(code for link in _chain(error) for code in _codes(link))


def _class_names(error: BaseException) -> frozenset[str]:
    return frozenset(cls.__name__ for link in _chain(error) for cls in type(link).__mro__)


def _plain_line(error: BaseException, where: str) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, FileNotFoundError):
        return f"not found: {where}"
    if number in {errno.ENOSPC, errno.EDQUOT}:
        return f"no space left to write {where}: free some, or choose another folder"
    if number == errno.EROFS:
        return f"cannot write {where}: the file system is read-only"
    if isinstance(error, PermissionError):
        return f"access denied to {where}: this user may not do this there"
    if isinstance(error, NotADirectoryError | FileExistsError):
        return f"cannot use {where}: a part of the path is a file, not a folder"
    if isinstance(error, IsADirectoryError):
        return f"cannot use {where}: it is a folder, not a file"
    return f"storage failed for {where}: {_first_line(error)}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _codes(error: BaseException) -> Iterator[str]:
    response = getattr(error, "response", None)  # botocore's ClientError
    if isinstance(response, dict):
        yield str(response.get("Error", {}).get("Code", ""))
    code = getattr(error, "code", None) or getattr(error, "status", None)  # gcsfs's HttpError, aiohttp's ClientResponseError
    if isinstance(code, int | str):
        yield str(code)


def _endpoint(error: BaseException) -> str | None:
    for link in _chain(error):
        fields = getattr(link, "kwargs", None)  # botocore formats its messages from these
        if isinstance(fields, dict) and fields.get("endpoint_url"):
            parts = urlsplit(str(fields["endpoint_url"]))
            return f"{parts.scheme}://{parts.netloc}"
    return None


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or str(error.__cause__ or "").strip()
    return (text.splitlines()[0][:300].partition("?")[0] if text else type(error).__name__).rstrip(". ")
