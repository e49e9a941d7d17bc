"""Labels as people have them: every one is accounted for, and stands for its stratum."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.calibration.fit import FitSettings, fit
from pipeline.calibration.labels import Accounts, join, read_labels
from pipeline.calibration.sample import SampleSettings, draw_sample
from pipeline.errors import ManifestError
from pipeline.filters.source import find_dataset
from tests.calibration.outputs import STORE, config_of, label, scored, write_labels

label_rows = st.lists(
    st.fixed_dictionaries(
        {
            "key": st.sampled_from(["row 1", "row 2", "row 9", "row 11", "nobody", "", " "]),
            "label": st.sampled_from(["good", "BAD", "1", "0", "yes", "n", "true", "skip", ""]),
        }
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=label_rows)
def test_every_row_of_a_file_of_labels_is_accounted_for(rows: list[dict[str, str]], data: Path, tmp_path: Path) -> None:
    path = write_labels(tmp_path / "l.csv", [*rows, {"key": "row 3", "label": "good"}])
    labels = read_labels(path, STORE)
    found = join(labels, find_dataset(config_of(data)), "itm_score", config_of(data))
    accounts = found.accounts
    assert sum(accounts) == 2 * accounts.rows == 2 * (len(rows) + 1)
    good = {word: word in ("good", "1", "yes", "true") for word in ("good", "BAD", "1", "0", "yes", "n", "true")}
    judged: dict[str, set[bool]] = {"row 3": {True}}
    for row in rows:
        if row["label"] in good and row["key"].strip():
            judged.setdefault(row["key"], set()).add(good[row["label"]])
    agreed = {key for key, said in judged.items() if len(said) == 1}
    assert accounts.used == len(found.good) == len(agreed - {"row 9", "nobody"})
    assert accounts.unscored == ("row 9" in agreed)
    assert accounts.missing == ("nobody" in agreed)
    assert accounts.conflicting == sum(row["label"] in good and len(judged.get(row["key"], ())) == 2 for row in rows)


def test_a_key_of_several_rows_is_nobodys(data: Path, tmp_path: Path) -> None:
    (tmp_path / "twice").mkdir()
    for name in ("a", "b"):
        pq.write_table(scored(0, 50), tmp_path / "twice" / f"{name}.parquet")
    labels = read_labels(write_labels(tmp_path / "l.csv", [{"key": "row 1", "label": "good"}]), STORE)
    config = config_of(tmp_path / "twice")
    found = join(labels, find_dataset(config), "itm_score", config)
    assert found.accounts == Accounts(1, 0, 0, 0, 0, 0, 0, 1, 0)


def test_files_as_people_have_them(data: Path, tmp_path: Path) -> None:
    (tmp_path / "excel.csv").write_bytes("\ufeffuid;is_match;note\r\nrow 1;1;a\r\nrow 2;0;b\r\n".encode())
    pq.write_table(
        pa.table({"uid": ["row 1", "row 2"], "good": [True, False], "image": [b"x", b"y"]}), tmp_path / "labels.parquet"
    )
    (tmp_path / "own.csv").write_text('name\tverdict\n"row 1"\tgood\n"row 2"\tbad\n')
    for name, columns in (("excel.csv", {}), ("labels.parquet", {}), ("own.csv", {"key": "name", "label": "verdict"})):
        labels = read_labels(str(tmp_path / name), STORE, **columns)
        assert [(entry.key, entry.good) for entry in labels.labels] == [("row 1", True), ("row 2", False)], name


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("key,label\na,maybe\n", "row 1: label 'maybe' is not one of"),
        ("key,verdict\na,good\n", "set --label NAME; its columns: key, verdict"),
        ("name,label\na,good\n", "set --label-key NAME"),
        ("", "its columns: none"),
        ("key,label,weight\na,good,-1\n", "row 1: weight is '-1', no positive number"),
        ("key,label,stratum,stratum_rows\na,good,0,many\n", "row 1: stratum_rows is 'many'"),
        ("key,label,weight\nrow 1,good,2\nrow 2,bad,\n", "1 of 2 labels have no weight"),
        ("key,label,stratum,stratum_rows\nrow 1,good,0,5\nrow 2,bad,0,6\n", "different samples"),
        ("key,label\nrow 1,good\nrow 9,bad\n", "good and bad ones are both needed"),
        ("PAR1 not really", "is a corrupt Parquet file"),
        ("key,label\n\xff\xfe,good", "neither Parquet nor CSV in UTF-8"),
    ],
)
def test_labels_that_cannot_be_used_are_one_line(text: str, complaint: str, data: Path, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ManifestError) as caught:
        fit(config_of(data), FitSettings(labels=str(tmp_path / "l.csv"), resamples=5))
    assert complaint in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_labels_stand_for_their_stratum_however_many_were_judged(data: Path, tmp_path: Path) -> None:
    sample = draw_sample(config_of(data), SampleSettings(rows=100, bins=4, strata="widths"))
    path = label(sample.table.slice(0, 37), tmp_path / "l.csv")
    found = fit(config_of(data), FitSettings(labels=path, resamples=5))
    assert found.labelled.weights.sum() == pytest.approx(1_800)
    assert found.labelled.notes == ()
    rows = [
        {**row, "label": "" if row["stratum"] == 2 else "good" if row["stratum"] else "bad"} for row in sample.table.to_pylist()
    ]
    found = fit(config_of(data), FitSettings(labels=write_labels(tmp_path / "l.csv", rows), resamples=5))
    assert found.labelled.notes == ("no usable label in stratum 2: the figures leave its rows out",)
    assert found.labelled.accounts.skipped == 25
