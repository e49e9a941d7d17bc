"""What a machine keeps: one fetch however many ask, whoever dies, and nothing that is not what was asked for."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import CheckpointError
from pipeline.model import cache, save_checkpoint
from pipeline.model.cache import Entry, keep
from pipeline.model.source import locate
from tests.model.processes import LOCATE, Processes
from tests.model.servers import Files, serving
from tests.tiny import tiny_model

PATH = "/models/tiny.safetensors"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(tiny_model(), path)
    return path.read_bytes()


@pytest.fixture
def server(weights: bytes) -> Iterator[Files]:
    with serving(Files({PATH: weights})) as files:
        yield files


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_replicas_of_a_machine_fetch_once(server: Files, weights: bytes, own_cache: Path) -> None:
    processes = Processes(8, server.url + PATH, {"XDG_CACHE_HOME": str(own_cache)})
    processes.go()
    answers = processes.answers()
    assert {answer.code for answer in answers} == {0}
    assert len({answer.text for answer in answers}) == 1, "all of them have the same file"
    assert answers[0].text.endswith(hashlib.sha256(weights).hexdigest())
    assert server.gets(PATH) == 1
    assert kept(own_cache) == ["lock", "tiny.safetensors", "tiny.safetensors.verified"]


def test_another_takes_over_from_one_that_is_killed(server: Files, weights: bytes, own_cache: Path) -> None:
    server.hold()
    processes = Processes(3, server.url + PATH, {"XDG_CACHE_HOME": str(own_cache)})
    processes.go(0)
    assert server.half_sent.wait(30)
    processes.go(1, 2)
    processes.running[0].kill()
    server.go_on.set()
    killed, *others = processes.answers()
    assert killed.code == -9
    assert {answer.code for answer in others} == {0}
    assert all(answer.text.endswith(hashlib.sha256(weights).hexdigest()) for answer in others)
    assert server.gets(PATH) == 2, "the one that was killed, and one more"
    assert kept(own_cache) == ["lock", "tiny.safetensors", "tiny.safetensors.verified"], "what was half done is gone"


def test_a_download_that_ends_early_is_refused(server: Files, own_cache: Path) -> None:
    server.cut = True
    with pytest.raises(CheckpointError, match=r"tiny\.safetensors' cannot be read: ") as caught:
        locate(server.url + PATH)
    assert "\n" not in str(caught.value)
    assert kept(own_cache) == ["lock"]


@pytest.mark.parametrize("same_size_and_time", [False, True])
def test_a_kept_file_that_was_damaged_is_fetched_anew(same_size_and_time: bool, server: Files, weights: bytes) -> None:
    path = locate(server.url + PATH).weights
    before = path.stat()
    path.write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]) if same_size_and_time else weights[:1000])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert locate(server.url + PATH).weights.read_bytes() == weights
    assert server.gets(PATH) == 2


def test_a_file_that_changes_while_it_is_fetched_is_refused(server: Files, weights: bytes, own_cache: Path) -> None:
    server.hold()
    processes = Processes(1, server.url + PATH, {"XDG_CACHE_HOME": str(own_cache)})
    processes.go()
    assert server.half_sent.wait(30)
    server.content[PATH] = weights[::-1]
    server.go_on.set()
    assert "changed while it was fetched: start again" in processes.answers()[0].text
    assert kept(own_cache) == ["lock"]


def test_where_nothing_can_be_kept(server: Files, own_cache: Path) -> None:
    own_cache.write_text("a file where the folder should be")
    words = "cannot be kept in .*: Not a directory; XDG_CACHE_HOME names another folder"
    with pytest.raises(CheckpointError, match=words) as caught:
        locate(server.url + PATH)
    assert "\n" not in str(caught.value)
    assert server.gets(PATH) == 0


def test_a_disk_that_fills_up(server: Files, weights: bytes, own_cache: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOCATE, server.url + PATH],
        input="\n",
        text=True,
        capture_output=True,
        timeout=60,
        check=True,
        env={**os.environ, "XDG_CACHE_HOME": str(own_cache), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (len(weights) // 2, len(weights) // 2)),
    )
    assert "cannot be kept in" in done.stdout
    assert "File too large; XDG_CACHE_HOME names another folder" in done.stdout
    assert kept(own_cache) == ["lock"]


def test_a_full_disk_is_known_beforehand(own_cache: Path) -> None:
    with pytest.raises(CheckpointError, match="No space left on device for 1,000,000,000,000,000 bytes"):
        keep(Entry("big", "key", "big.bin", 10**15), lambda _: pytest.fail("not begun"), reread=False)


def test_a_process_that_hangs_is_named(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LOCK_LIMIT_S", 0.2)
    words = rf"'slow': process {os.getpid()} on .* end it \(.*key/lock"
    with cache.locked("slow", "key"), pytest.raises(CheckpointError, match=words):
        keep(Entry("slow", "key", "x"), lambda _: pytest.fail("not begun"), reread=False)


def test_other_bytes_than_expected_are_not_kept(own_cache: Path) -> None:
    entry = Entry("mine", "key", "x.bin", 3, hashlib.sha256(b"abc").hexdigest())
    words = r"'mine': x\.bin has the sha256 [0-9a-f]{64} instead of ba7816bf.*: it has changed, or was damaged"
    with pytest.raises(CheckpointError, match=words):
        keep(entry, lambda partial: partial.write_bytes(b"abd"), reread=False)
    with pytest.raises(CheckpointError, match=r"'mine': 2 of the 3 bytes of x\.bin arrived"):
        keep(entry, lambda partial: partial.write_bytes(b"ab"), reread=False)
    assert keep(entry, lambda partial: partial.write_bytes(b"abc"), reread=False).path.read_bytes() == b"abc"
    assert kept(own_cache) == ["lock", "x.bin", "x.bin.verified"]
