"""What a run would do, shard by shard, without doing any of it: settings, manifest, model and output are looked at, no more.

Nothing is written, no lease is taken and no Ray started. Knows nothing of how anything is printed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pipeline import resume
from pipeline.config import Config
from pipeline.manifest import Shard
from pipeline.model.facts import ModelInfo
from pipeline.output import Staged
from pipeline.run import Listener, check


class ShardState(NamedTuple):
    """A shard, and how far it is."""

    shard: Shard
    rows_done: int  # in its final file: all of them or none
    rows_staged: int  # in parts; of a second chance, those that the final file keeps as well

    @property
    def rows_missing(self) -> int:
        """Those that a run would score."""
        return self.shard.rows - self.rows_done - self.rows_staged

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        rows = {"rows_done": self.rows_done, "rows_staged": self.rows_staged, "rows_missing": self.rows_missing}
        shard = self.shard
        return {"shard": shard.name, "file": shard.file.url, "first_row": shard.first_row, "rows": shard.rows, **rows}


class Preview(NamedTuple):
    """What a run would do."""

    shards: list[ShardState]
    model: ModelInfo
    output: str
    columns: dict[str, str]  # by role

    def total(self) -> dict[str, int]:
        """Rows of the manifest, and how far they are."""
        names = ("rows", "rows_done", "rows_staged", "rows_missing")
        return {name: sum(one.as_json()[name] for one in self.shards) for name in names}

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "dry_run": True,
            "output": self.output,
            "model": {"name": self.model.name, "sha256": self.model.sha256, "image_size": self.model.image_size},
            "columns": self.columns,
            **self.total(),
            "shards": [one.as_json() for one in self.shards],
        }


def preview(config: Config, listener: Listener) -> Preview:
    """Check a run as `run.score` does, and look at what is there of its output. Raises UserError where a run would."""
    checked = check(config, listener)
    shards, out = checked.manifest.shards, checked.output
    listener.starting("output")
    staged = Staged({}, {})
    names = resume.list_names(out)
    if not config.output.overwrite and resume.check_names(out, names):
        staged = resume.look(out, shards, config.output.retry).staged
    nothing = np.empty(0, np.int64)
    states = [
        ShardState(shard, shard.rows if shard.name in staged.done else 0, len(staged.rows.get(shard.name, nothing)))
        for shard in shards
    ]
    return Preview(states, checked.model, out.url, checked.manifest.columns.roles())
