"""URL -> bytes: http(s), object stores and local files, many at a time, safely.

policy.py    what may be fetched                      client.py    Fetcher: many requests, results as they complete
resolver.py  names to checked addresses               schedule.py  whose turn it is
web.py, objects.py, files.py  one reader each         budget.py    how many bytes may be in memory
failures.py  exceptions to reasons
"""

from pipeline.fetch.client import Fetcher, FetchRequest, FetchResult

__all__ = ["FetchRequest", "FetchResult", "Fetcher"]
