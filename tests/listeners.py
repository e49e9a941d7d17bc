"""Listeners of runs that tests start."""

from __future__ import annotations

from pipeline.progress import Plan, Progress


class Silent:
    """Shows nothing."""

    def starting(self, what: str) -> None:
        pass

    def planned(self, plan: Plan) -> None:
        pass

    def progressed(self, progress: Progress) -> None:
        pass
