"""Random rows, random rules, and files of them."""

from __future__ import annotations

import hashlib
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from pipeline.config import Config
from tests.filters.naive import Row, single

TENTHS = [round(0.1 * tenth, 1) for tenth in range(11)]  # few values: ties everywhere
SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("url", pa.string()),
        ("caption", pa.string()),
        ("language", pa.string()),
        ("pages", pa.int32()),
        ("itm_score", pa.float32()),
        ("itc_similarity", pa.float64()),
        ("status", pa.dictionary(pa.int8(), pa.string())),
        ("image_sha256", pa.string()),
    ]
)


def sha(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


@st.composite
def random_rows(draw: st.DrawFn) -> list[Row]:
    count = draw(st.integers(0, 40))
    tenths = st.sampled_from([*TENTHS, None])
    rows = []
    for number in range(count):
        failed = draw(st.integers(0, 9)) == 0
        image = draw(st.integers(0, 6))
        rows.append(
            {
                "number": number,
                "url": draw(st.sampled_from([f"http://a/{image}.jpg", f"http://b/{image}.jpg", "http://c/x.jpg", None])),
                "caption": f"caption {number}",
                "language": draw(st.sampled_from(["en", "de", "no", "", None])),
                "pages": draw(st.sampled_from([-1, 0, 1, 2, None])),
                "itm_score": None if failed else single(draw(tenths)),
                "itc_similarity": None if failed else draw(st.sampled_from([*TENTHS, None, math.nan, -0.5])),
                "status": draw(st.sampled_from(["failed_to_download", "invalid_row"])) if failed else "success",
                "image_sha256": None if failed or image == 0 else sha(image),
            }
        )
    return rows


numbers = st.sampled_from(["itm_score", "itc_similarity", "pages"])
bounds = st.sampled_from(TENTHS)
leaf_rules = st.one_of(
    st.builds(
        lambda column, name, bound: {"column": column, name: bound},
        numbers,
        st.sampled_from(["at_least", "above", "at_most", "below"]),
        bounds,
    ),
    st.builds(lambda low, high: {"column": "itm_score", "at_least": low, "below": high}, bounds, bounds),
    st.builds(
        lambda table, otherwise: {
            "column": "itm_score",
            "at_least": table,
            "by_value_of": "language",
            **({} if otherwise is None else {"otherwise": otherwise}),
        },
        st.dictionaries(st.sampled_from(["en", "de", "no"]), bounds, min_size=1),
        st.none() | bounds,
    ),
    st.builds(
        lambda name, listed: {"column": "language", name: listed},
        st.sampled_from(["in", "not_in"]),
        st.lists(st.sampled_from(["en", "de", "no", "", "xx", None])),
    ),
    st.builds(lambda listed: {"column": "pages", "in": listed}, st.lists(st.sampled_from([0, 1, 5, None]))),
    st.builds(lambda column, share: {"column": column, "quantile": share}, numbers, bounds),
    st.builds(lambda share, by: {"top_fraction": share, "by": by}, st.sampled_from(TENTHS[1:]), numbers),
    st.builds(lambda count, by: {"top": count, "by": by}, st.integers(1, 40), numbers),
    st.builds(
        lambda image, by, margin: {"best_caption": image, "by": by, **({} if margin is None else {"min_margin": margin})},
        st.sampled_from([True, "url"]),
        numbers,
        st.none() | bounds,
    ),
    st.builds(lambda column, by: {"unique": column, "by": by}, st.sampled_from(["image_sha256", "url", "pages"]), numbers),
    st.sampled_from([{"unique": "url"}, {"unique": "language"}]),
    st.builds(lambda count: {"placeholders": count}, st.integers(1, 3)),
)
rule_trees = st.recursive(
    leaf_rules,
    lambda inner: st.one_of(
        st.builds(lambda rules: {"all": rules}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda rules: {"any": rules}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda rule: {"not": rule}, inner),
    ),
    max_leaves=4,
)


def write_files(folder: Path, rows: list[Row], cuts: list[int], group_rows: int, schema: pa.Schema = SCHEMA) -> None:
    folder.mkdir()
    borders = [0, *sorted(cut % (len(rows) + 1) for cut in cuts), len(rows)]
    for number, (start, stop) in enumerate(pairwise(borders)):
        table = pa.Table.from_pylist(rows[start:stop], schema=schema)
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=group_rows)


def config_of(folder: Path, rules: list[Any], **filter: Any) -> Config:
    return Config.model_validate(
        {
            "input": {"manifest": str(folder / "in")},
            "output": {"path": str(folder / "out"), "rows_per_output_file": 7},
            "filter": {"rules": rules, "threads": 2, **filter},
        }
    )


def read(folder: Path) -> list[Row]:
    rows: list[Row] = []
    for file in sorted(folder.glob("*.parquet")):
        rows += pq.ParquetFile(file).read().to_pylist()
    return rows
