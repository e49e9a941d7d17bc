"""Which partitions there are, and which nights are due."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import storage
from pipeline.config import Config
from pipeline.errors import ConfigError, ManifestError, OutputError
from pipeline.nightly import nights
from pipeline.nightly.judge import judge
from pipeline.nightly.nights import Places
from tests.conftest import WriteManifest
from tests.nightly.records import FIRST, HISTORY, MODEL, config_of, night, record
from tests.nights import SHUFFLED


def partitions(config: Config) -> dict[str, int]:
    return {found.night.isoformat(): found.files for found in nights.find_partitions(config)}


ROWS = {"url": ["u"], "caption": ["c"]}


@pytest.mark.parametrize("where", ["local", "bucket"])
def test_partitions_are_found_oldest_first(
    where: str, tmp_path: Path, request: pytest.FixtureRequest, write_manifest: WriteManifest
) -> None:
    folder = str(tmp_path) if where == "local" else request.getfixturevalue("bucket")
    for name in ("date=2026-01-03/a", "date=2025-12-31/a", "date=2025-12-31/sub/b", "date=2026-02-30/a", "date=today/a", "a"):
        write_manifest(f"{folder}/in/{name}.parquet", ROWS)
    storage.write_bytes(f"{folder}/in/date=2026-01-04/_SUCCESS", b"", Config().storage)
    assert list(partitions(config_of(folder)).items()) == [("2025-12-31", 2), ("2026-01-03", 1)]
    assert partitions(config_of(folder, since="2026-01-01")) == {"2026-01-03": 1}
    assert partitions(config_of(folder, until="2025-12-31")) == {"2025-12-31": 2}
    one = config_of(folder).model_copy(
        update={"input": Config().input.model_copy(update={"manifest": [f"{folder}/in/*/a.parquet"]})}
    )
    assert partitions(one) == {"2025-12-31": 1, "2026-01-03": 1}


def test_several_folders_of_a_night_are_one_partition(tmp_path: Path, write_manifest: WriteManifest) -> None:
    for source in ("x", "y"):
        write_manifest(tmp_path / "in" / source / "date=2026-01-01" / f"{source}.parquet", ROWS)
    (found,) = nights.find_partitions(config_of(tmp_path))
    assert found.folders == tuple(f"{tmp_path}/in/{source}/date=2026-01-01" for source in ("x", "y"))


def test_no_partition_and_an_output_inside_the_input_are_refused(tmp_path: Path, write_manifest: WriteManifest) -> None:
    write_manifest(tmp_path / "in" / "a.parquet", ROWS)
    with pytest.raises(ManifestError, match=r"no file is in a folder date=YYYY-MM-DD \(e\.g\. .*a\.parquet"):
        nights.find_partitions(config_of(tmp_path))
    write_manifest(tmp_path / "in" / "date=2026-01-01" / "a.parquet", ROWS)
    inside = Config().output.model_copy(update={"path": f"{tmp_path}/in/out"})
    with pytest.raises(ConfigError, match=r"/in/out lies in the input .*/in: .* name another --output\.path"):
        nights.find_partitions(config_of(tmp_path).model_copy(update={"output": inside}))


SUCCESS = {"rows": 5, "shards": 1, "status": {"success": 5}, "reasons": {}, "made_of": {}, "elapsed_s": 1.0}


def why(folder: Path, **nightly: Any) -> list[str]:
    config = config_of(folder, **nightly)
    places = Places.of(config)
    plan = nights.plan(nights.find_partitions(config), nights.read_records(places, config), places, config)
    return [due.why for due in (*plan.due, *plan.waiting)] + ["finished"] * len(plan.finished)


def test_a_night_is_due_until_its_record_fits_its_input_and_its_scores(tmp_path: Path, write_manifest: WriteManifest) -> None:
    config = config_of(tmp_path)
    places = Places.of(config)
    write_manifest(tmp_path / "in" / "date=2026-01-01" / "a.parquet", ROWS)
    success = tmp_path / "out" / "date=2026-01-01" / "_SUCCESS"
    assert why(tmp_path) == ["new"]
    assert why(tmp_path, marker="_SUCCESS") == ["waits for _SUCCESS"]
    success.parent.mkdir(parents=True)
    success.write_text(json.dumps(SUCCESS))
    assert why(tmp_path) == ["scored, but neither filtered nor compared"]
    outcome = nights.outcome_of(places.scored(FIRST), config)
    nights.write_record(places, record(0, scored=outcome), config)
    assert why(tmp_path) == why(tmp_path, marker="_SUCCESS") == ["finished"]
    success.write_text(json.dumps({**SUCCESS, "elapsed_s": 2.0}))
    assert why(tmp_path) == ["finished"], "a finished run that is run once more changes nothing"
    success.write_text(json.dumps({**SUCCESS, "status": {"success": 4, "failed_to_decode": 1}}))
    assert why(tmp_path) == ["scored again since it was filtered and compared"]
    success.write_text(json.dumps(SUCCESS))
    write_manifest(tmp_path / "in" / "date=2026-01-01" / "late.parquet", ROWS)
    assert why(tmp_path) == ["1 more files than when it was scored"]
    success.unlink()
    assert why(tmp_path) == ["its scores are gone or unfinished"]


def test_records_survive_their_files_and_damaged_ones_are_named(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    places = Places.of(config)
    written = replace(
        record(0),
        findings=tuple(judge(night(30), SHUFFLED.draw(np.random.default_rng(1)), MODEL, HISTORY, config.nightly).findings),
        compared_with=(night(3),),
    )
    nights.write_record(places, written, config)
    assert nights.read_records(places, config)[FIRST].as_json() == written.as_json()
    Path(places.record(FIRST)).write_text('{"night": "2026-01-01"}')
    with pytest.raises(OutputError, match=r"date=2026-01-01/drift\.json is not as capsieve writes it .*: delete it"):
        nights.read_records(places, config)


def test_accepting_a_night_that_has_no_record_is_refused(tmp_path: Path) -> None:
    config = config_of(tmp_path, accept=["2026-01-05"])
    with pytest.raises(OutputError, match=r"no record of 2026-01-05 to accept: .*/out/_nightly has none"):
        nights.accept(Places.of(config), {}, config)
    with pytest.raises(OutputError, match=r"has 2026-01-01 to 2026-01-01; correct --nightly\.accept"):
        nights.accept(Places.of(config), {FIRST: record(0)}, config)
