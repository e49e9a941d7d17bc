"""Images on this machine: which may be read, and which are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.schema import Reason
from tests.fetch.fetching import LIMITS, fetch, outcome
from tests.fetch.hostile import BODY


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.jpg").write_bytes(BODY)
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "large.jpg").write_bytes(b"x" * 100_001)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    (tmp_path / "out.jpg").symlink_to("/etc/hostname")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(tmp_path / "fifo.jpg")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.jpg", BODY),
        ("./folder/../a.jpg", BODY),
        ("link.jpg", BODY),
        ("empty.jpg", b""),
        ("large.jpg", Reason.TOO_LARGE),
        ("missing.jpg", Reason.NOT_FOUND),
        ("a.jpg/b.jpg", Reason.NOT_FOUND),
        ("folder", Reason.REFUSED_PATH),
        ("fifo.jpg", Reason.REFUSED_PATH),
        ("loop.jpg", Reason.REFUSED_PATH),
        ("out.jpg", Reason.REFUSED_PATH),
        ("../a.jpg", Reason.REFUSED_PATH),
        ("/etc/hostname", Reason.REFUSED_PATH),
        ("/dev/zero", Reason.REFUSED_PATH),
        ("x" * 300, Reason.REFUSED_PATH),
    ],
)
def test_local_files(folder: Path, path: str, expected: bytes | str) -> None:
    assert outcome(fetch([path], base=str(folder))[0]) == expected


def test_local_files_by_root(folder: Path) -> None:
    config = LIMITS.model_copy(update={"file_roots": [str(folder)]})
    urls = [str(folder / "a.jpg"), f"file://{folder}/a.jpg", "/etc/hostname", "a.jpg"]
    assert [outcome(result) for result in fetch(urls, config)] == [BODY, BODY, Reason.REFUSED_PATH, Reason.BAD_URL]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(folder: Path) -> None:
    (folder / "a.jpg").chmod(0)
    assert outcome(fetch(["a.jpg"], base=str(folder))[0]) == Reason.ACCESS_DENIED
