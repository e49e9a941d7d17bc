"""Where files are cut, and what the files of an output are called."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.shards import output_name, row_borders


@pytest.mark.parametrize(
    ("relative", "name"),
    [
        ("a.parquet", "a"),
        ("a.snappy.parquet", "a.snappy"),
        ("date=2026-01-01/part-0.parquet", "date=2026-01-01/part-0"),
        ("no suffix", "no suffix"),
        ("漢字/ä.PQ", "漢字/ä"),
        ("../../etc/passwd.parquet", "x/x/etc/passwd"),
        ("/etc//passwd", "etc/x/passwd"),
        ("a/./_b/.c.parquet", "a/x/b/c"),
        ("_staging.parquet", "staging"),
        ("what?*[1]\\..parquet", "what__" + "_1__."),
        ("tab\tnew\nline\x00.parquet", "tab_new_line_"),
        (".parquet", "x"),
    ],
)
def test_output_names_are_harmless(relative: str, name: str) -> None:
    assert output_name(relative) == name


@given(st.lists(st.text(min_size=1, max_size=300).filter(lambda text: "/" not in text), min_size=1, max_size=4))
def test_no_name_leaves_the_folder(segments: list[str]) -> None:
    made = output_name("/".join(segments)).split("/")
    assert len(made) == len(segments)
    for segment in made:
        assert segment
        assert segment[0] not in "._"
        assert segment.isprintable()
        assert len(segment.encode(errors="surrogatepass")) <= 160


@pytest.mark.parametrize(
    ("groups", "limit", "borders"),
    [
        ([], 10, [0, 0]),
        ([0, 0], 10, [0, 0]),
        ([10], 10, [0, 10]),
        ([3, 3, 3, 3], 7, [0, 6, 12]),  # whole row groups
        ([12], 10, [0, 6, 12]),  # evenly, not 10 and 2
        ([5, 12, 5], 10, [0, 5, 11, 17, 22]),
        ([0, 4, 0, 4, 0], 4, [0, 4, 8]),
        ([12, 2], 10, [0, 6, 14]),
        ([1, 1, 1], 1, [0, 1, 2, 3]),
    ],
)
def test_where_files_are_cut(groups: list[int], limit: int, borders: list[int]) -> None:
    assert row_borders(groups, limit) == borders


@given(st.lists(st.integers(0, 50)), st.integers(1, 30))
def test_cuts_cover_each_row_once(groups: list[int], limit: int) -> None:
    borders = row_borders(groups, limit)
    sizes = [stop - start for start, stop in pairwise(borders)]
    assert (borders[0], borders[-1]) == (0, sum(groups))
    assert all(0 < size <= limit for size in sizes) or sizes == [0]
