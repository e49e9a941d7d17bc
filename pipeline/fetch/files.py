"""Bytes of local files: regular ones only, up to a size. Knows nothing of roots (`policy.local_file`) or threads."""

from __future__ import annotations

import os
import stat

from pipeline.errors import FetchError
from pipeline.schema import Reason


def read_file(path: str, max_bytes: int) -> bytes:
    """Read a regular file of at most `max_bytes`, not through a symbolic link; raises FetchError or OSError.

    Opened without blocking: a FIFO would otherwise hold the thread for ever, a device do worse.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FetchError(Reason.REFUSED_PATH)
        if status.st_size > max_bytes:
            raise FetchError(Reason.TOO_LARGE)
        parts = []
        left = max_bytes + 1  # the file may have grown since
        while left > 0 and (part := file.read(min(left, max(status.st_size + 1, 1)))):
            parts.append(part)
            left -= len(part)
    if left <= 0:
        raise FetchError(Reason.TOO_LARGE)
    return parts[0] if len(parts) == 1 else b"".join(parts)
