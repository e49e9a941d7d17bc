"""What replicas get in the place of a name: exact bytes, wherever they come from, or a clear refusal."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import ModelConfig, StorageConfig
from pipeline.errors import CheckpointError
from pipeline.local_s3 import LocalS3
from pipeline.model import load_model, save_checkpoint
from pipeline.model.facts import describe
from pipeline.model.pin import Pieces, Pin, here, pin
from pipeline.model.source import locate
from pipeline.storage import delete_folder, write_bytes
from tests.tiny import tiny_model

STORE = StorageConfig()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "driver-cache"))
    return tmp_path / "driver-cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(tiny_model(), tmp_path / "model")
    return tmp_path / "model"


def handed_out(pinned: Pin) -> dict[str, Pieces]:
    """What a driver shares, in pieces, with no Ray in between."""

    def pieces(content: bytes) -> Pieces:
        return lambda: [content[:1000], content[1000:]]

    return {file.sha256: pieces(Path(file.path).read_bytes()) for file in pinned.files()}


def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Become another machine: one with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other-cache"))
    return tmp_path / "other-cache"


def test_on_the_driver_s_machine_files_are_taken_as_they_lie(folder: Path) -> None:
    pinned = pin(locate(folder))
    files = here(pinned, STORE, {})
    assert files[1:4] == tuple(folder / name for name in ("model.safetensors", "config.json", "vocab.txt"))
    assert load_model(files).visual_encoder.image_size == 32


def test_another_machine_gets_them_from_the_driver(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = pin(locate(folder))
    shared = handed_out(pinned)
    shutil.rmtree(folder)
    cache = elsewhere(monkeypatch, tmp_path)
    files = here(pinned, STORE, shared)
    assert files.weights.is_relative_to(cache)
    model = load_model(files)
    assert model.tokenizer.vocab == tiny_model().tokenizer.vocab
    asked: list[str] = []
    again = here(pinned, STORE, {sha256: lambda: asked.append("asked") or [] for sha256 in shared})
    assert (again, asked) == (files, []), "the next replica finds them"


def test_other_bytes_are_no_replica(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = pin(locate(folder))
    shared = handed_out(pinned)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    shutil.rmtree(folder)
    elsewhere(monkeypatch, tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors has the sha256 .* it has changed, or was damaged"):
        here(pinned, STORE, shared | {pinned.weights.sha256: lambda: [bytes(content)]})
    assert here(pinned, STORE, shared).weights.is_file(), "a good copy is taken afterwards"


def test_a_local_file_that_was_replaced_is_refused(folder: Path) -> None:
    pinned = pin(locate(folder))
    save_checkpoint(tiny_model(1), folder)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not as it was when the run began"):
        here(pinned, STORE, {})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model", "model/model.safetensors"])
def test_from_a_bucket_each_machine_gets_them_itself(
    name: str, folder: Path, bucket: str, s3: LocalS3, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no hub, and no word of the driver's but the pin; by the endpoint that the settings name."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    endpoint = StorageConfig(endpoint_url=s3.endpoint_url)
    for path in folder.iterdir():
        write_bytes(f"{bucket}/model/{path.name}", path.read_bytes(), endpoint)
    model = describe(ModelConfig(checkpoint=f"{bucket}/{name}"), endpoint)
    shutil.rmtree(own_cache)
    cache = elsewhere(monkeypatch, tmp_path)
    files = here(model.pin, endpoint, {})
    assert files.weights.is_relative_to(cache)
    assert (files.config is None) == name.endswith(".safetensors")
    assert files.weights.read_bytes() == (folder / "model.safetensors").read_bytes()
    delete_folder(bucket, endpoint)
    assert here(model.pin, endpoint, {}) == files, "the store is not asked for what is here"
    shutil.rmtree(cache)
    with pytest.raises(CheckpointError, match="not found"):
        here(model.pin, endpoint, {})


@pytest.mark.slow
def test_an_object_that_was_replaced_is_no_replica(
    folder: Path, bucket: str, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket}/model.safetensors"
    content = (folder / "model.safetensors").read_bytes()
    write_bytes(url, content, STORE)
    model = describe(ModelConfig(checkpoint=url), STORE)
    write_bytes(url, content[:-1] + bytes([content[-1] ^ 1]), STORE)
    assert here(model.pin, STORE, {}).weights.read_bytes() == content, "the driver's machine has what it read"
    shutil.rmtree(own_cache)
    elsewhere(monkeypatch, tmp_path)
    with pytest.raises(CheckpointError, match="it has changed, or was damaged on its way"):
        here(model.pin, STORE, {})


def test_no_torch_is_paid_for_a_pin(folder: Path) -> None:
    code = (
        "import sys; from pipeline.config import StorageConfig; from pipeline.model.pin import *; "
        "from pipeline.model.source import locate; here(pin(locate(sys.argv[1])), StorageConfig(), {}); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folder)], timeout=60, check=False).returncode == 0
