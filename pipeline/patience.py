"""Waiting for a store that is down, restarts or throttles: for the middle of a run, where hours of work hang on one request.

The start of a run does not wait (`storage.probe`): there, a wrong endpoint should be told within seconds. Knows nothing of what
is asked of the store.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.config import StorageConfig
from pipeline.errors import StorageError

log = logging.getLogger(__name__)

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 15.0

Result = TypeVar("Result")


def patiently(action: Callable[[], Result], config: StorageConfig) -> Result:
    """The action's result; while its StorageErrors may pass, it is tried again, for `storage.retry_s`, at growing intervals.

    Errors that waiting does not heal (a full disk, revoked credentials) come out at once. The action must bear repeating.
    """
    deadline = time.monotonic() + config.retry_s
    delay_s = FIRST_DELAY_S
    while True:
        try:
            return action()
        except StorageError as error:
            if not error.passing or time.monotonic() >= deadline:
                raise
            log.warning("%s; trying again", error)
        time.sleep(delay_s * random.uniform(0.5, 1))  # many tasks wait: not all at the same moment
        delay_s = min(2 * delay_s, LONGEST_DELAY_S)
