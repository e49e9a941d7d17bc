"""Settings of the plan of a run: how much is sampled, and which machines are compared.

Knows nothing of how anything is measured or computed.
"""

from __future__ import annotations

from pydantic import Field, field_validator

from pipeline.sections import Section, absolute_path


class PlanConfig(Section):
    """What `jobs/plan.py` measures, and for which machines it computes."""

    rows: int = Field(default=256, ge=1)
    """Rows sampled at most, from eight places of the manifest. A failure of one row in a hundred shows among so many."""
    seconds: float = Field(default=30.0, gt=0)
    """So long the stages are measured; what has begun is ended, and the rows that were not reached are left out."""
    pilot: bool = True
    """Start Ray and score a few rows through it, to see how long starting takes here. Off: constants, and no Ray."""
    instances: str = ""
    """YAML file of machines and prices; empty: configs/instances.yaml as shipped, all of it assumptions: edit a copy."""
    machines: int = Field(default=1, ge=1)
    """So many machines of each kind work together, under one driver."""

    @field_validator("instances")
    @classmethod
    def _absolute(cls, value: str) -> str:
        return absolute_path(value)
