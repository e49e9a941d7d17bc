"""Where checkpoints lie: names, folders, web servers, object stores, the hub's cache; all without torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import fsspec
import pytest
import torch

from pipeline.errors import CheckpointError
from pipeline.model import load_model, save_checkpoint
from pipeline.model.files import sniff
from pipeline.model.source import check_checkpoint, checkpoint_sha256, locate
from tests.model.builders import small_model
from tests.servers import serving


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one model in every format."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, format in (("own", "safetensors"), ("x.safetensors", "safetensors"), ("x.pth", "pth"), ("hf", "huggingface")):
        save_checkpoint(small_model(), folder / name, format=format)  # type: ignore[arg-type]
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache"


@pytest.fixture
def web_server(checkpoints: Path) -> Iterator[tuple[str, list[str]]]:
    """Base URL of the checkpoints, and the log of requests."""
    requests: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, code: object = "-", size: object = "-") -> None:
            requests.append(f"{self.command} {code}")

        def log_message(self, *args: object) -> None:
            pass

    with serving(partial(Handler, directory=str(checkpoints))) as url:
        yield url, requests


@pytest.mark.parametrize("name", ["own", "x.safetensors", "x.pth", "hf"])
def test_good_checkpoints_pass_the_check(name: str, checkpoints: Path) -> None:
    check_checkpoint(str(checkpoints / name))
    files = locate(checkpoints / name)
    expected = hashlib.sha256(files.weights.read_bytes()).hexdigest()
    assert checkpoint_sha256(checkpoints / name) == expected


def test_configuration_beside_a_lone_file_is_not_its_own(checkpoints: Path) -> None:
    assert locate(checkpoints / "own/model.safetensors").config == checkpoints / "own/config.json"
    (checkpoints / "own/other.safetensors").write_bytes((checkpoints / "x.safetensors").read_bytes())
    assert locate(checkpoints / "own/other.safetensors").config is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.pth", "checkpoint 'nowhere.pth' not found"),
        ("models/nowhere.pth", "checkpoint 'models/nowhere.pth' not found"),
        ("a/b/c", "checkpoint 'a/b/c' not found"),
        ("./a/b", "checkpoint './a/b' not found"),
        ("org/model", "checkpoint 'org/model' is no local path, and not to be had from the Hugging Face hub"),
        ("file:///nowhere/x.pth", "checkpoint 'file:///nowhere/x.pth' not found"),
        ("nosuch://bucket/x.pth", "checkpoint 'nosuch://bucket/x.pth' cannot be read: ValueError: Protocol not known"),
        ("http://127.0.0.1:9/x.pth?secret=1", "checkpoint 'http://127.0.0.1:9/x.pth'"),
    ],
)
def test_what_is_not_there_is_named(name: str, message: str) -> None:
    for look in (check_checkpoint, locate):
        with pytest.raises(CheckpointError) as caught:
            look(name)
        assert str(caught.value).startswith(message)
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_folders_without_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is a folder without model\.safetensors or pytorch_model\.bin"):
        check_checkpoint(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="split into several files"):
        check_checkpoint(tmp_path)


def test_installation_without_the_embedded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.model.source.EMBEDDED_FOLDER", tmp_path / "demo")
    with pytest.raises(CheckpointError, match="no embedded model"):
        check_checkpoint("")


def test_the_empty_name_is_the_embedded_model(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.model.source.EMBEDDED_FOLDER", checkpoints / "own")
    check_checkpoint("")
    assert load_model("").visual_encoder.image_size == 48


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"abc", "is not a checkpoint"),
        (b"PK\x03\x04" + bytes(100), "is cut off"),
        (b"\xff" * 100, "is not a checkpoint"),
        ((2).to_bytes(8, "little") + b"[]", "is not a checkpoint"),
        (
            (70).to_bytes(8, "little") + b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}'.ljust(70),
            "is cut off",
        ),
        ((12).to_bytes(8, "little") + b'{"a": [1, 2]}', "is not a checkpoint"),
    ],
)
def test_the_first_bytes_tell(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        check_checkpoint(path)


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_from_a_web_server(name: str, web_server: tuple[str, list[str]], own_cache: Path) -> None:
    base, requests = web_server
    check_checkpoint(f"{base}/{name}")
    assert not own_cache.exists()  # the check downloads nothing
    first = load_model(f"{base}/{name}?X-Signature=secret")
    downloads = requests.count("GET 200")
    again = load_model(f"{base}/{name}?X-Signature=other")
    assert requests.count("GET 200") == downloads  # kept under its URL, size and date
    assert torch.equal(first.itm_head.weight, again.itm_head.weight)
    assert not [path for path in own_cache.rglob("*") if "secret" in path.name or path.name.endswith(".part")]


def test_a_new_version_at_the_same_url_is_fetched(web_server: tuple[str, list[str]], checkpoints: Path) -> None:
    base, _ = web_server
    save_checkpoint(small_model(1), checkpoints / "changing.pth", format="pth")
    first = checkpoint_sha256(f"{base}/changing.pth")
    (checkpoints / "changing.pth").write_bytes((checkpoints / "x.safetensors").read_bytes())
    assert checkpoint_sha256(f"{base}/changing.pth") != first


def test_missing_on_a_web_server(web_server: tuple[str, list[str]]) -> None:
    for look in (check_checkpoint, locate):
        with pytest.raises(CheckpointError, match=r"nowhere\.pth' not found"):
            look(f"{web_server[0]}/nowhere.pth")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own", "hf", "x.pth"])
def test_from_an_object_store(name: str, checkpoints: Path, bucket: str) -> None:
    fs, path = fsspec.core.url_to_fs(bucket)
    fs.put(str(checkpoints / name), f"{path}/{name}", recursive=True)
    fs.invalidate_cache()
    check_checkpoint(f"{bucket}/{name}")
    assert checkpoint_sha256(f"{bucket}/{name}") == checkpoint_sha256(checkpoints / name)
    loaded, local = load_model(f"{bucket}/{name}"), load_model(checkpoints / name)
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), local.state_dict().values(), strict=True))
    with pytest.raises(CheckpointError, match=r"not found|folder without"):
        check_checkpoint(f"{bucket}/nowhere")


def test_a_local_folder_comes_before_the_hub(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoints.parent)
    assert sniff(locate(f"{checkpoints.name}/own").weights) == "safetensors"
