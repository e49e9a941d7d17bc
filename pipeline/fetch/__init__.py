"""URL -> bytes: http(s), object stores and local files, many at a time, safely.

policy.py    what may be fetched                      client.py     Fetcher: many requests, results as they complete
resolver.py  names to checked addresses               downloads.py  one list of them: attempts, retries, results
readers.py   one attempt at any address               schedule.py   whose turn it is
web.py, objects.py, files.py  one reader each         budget.py     how many may be under way, how many bytes in memory
failures.py  exceptions to reasons                    hosts.py      which hosts answer
"""

from pipeline.fetch.client import Fetcher, FetchRequest, process_fetcher
from pipeline.fetch.downloads import FetchResult

__all__ = ["FetchRequest", "FetchResult", "Fetcher", "process_fetcher"]
