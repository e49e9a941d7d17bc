"""The hub: asked once what a name means, then for one commit's files, once a machine. A real server, in the hub's own words."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.model import save_checkpoint
from tests.model.processes import Processes
from tests.model.servers import Hub, serving
from tests.tiny import tiny_model

REPO = "org/model"
OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture(scope="module")
def commits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    found = {}
    for seed, commit in enumerate((OLD, NEW)):
        folder = tmp_path_factory.mktemp("hub")
        save_checkpoint(tiny_model(seed), folder, format="huggingface")
        found[commit] = {path.name: path.read_bytes() for path in folder.iterdir()}
    return found


@pytest.fixture
def server(commits: dict[str, dict[str, bytes]]) -> Iterator[Hub]:
    with serving(Hub(REPO, commits)) as hub:
        assert isinstance(hub, Hub)
        yield hub


@pytest.fixture
def environment(server: Hub, tmp_path: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "XDG_CACHE_HOME": str(tmp_path / "cache")}


def sha256(server: Hub, commit: str) -> str:
    return hashlib.sha256(server.commits[commit]["model.safetensors"]).hexdigest()


def ask(count: int, checkpoint: str, environment: dict[str, str]) -> list[str]:
    processes = Processes(count, checkpoint, environment)
    processes.go()
    return [answer.text for answer in processes.answers()]


def test_a_commit_is_fetched_once_a_machine(server: Hub, environment: dict[str, str]) -> None:
    answers = ask(6, f"{REPO}@{OLD}", environment)
    assert len(set(answers)) == 1, answers
    assert answers[0].endswith(sha256(server, OLD))
    resolved = [request for request in server.requests if "/resolve/" in request]
    assert all(f"/resolve/{OLD}/" in request for request in resolved), "one exact commit"
    assert server.gets(f"/{REPO}/resolve/{OLD}/model.safetensors") == 1
    assert sorted(resolved) == sorted(
        f"{method} /{REPO}/resolve/{OLD}/{file}" for method in ("GET", "HEAD") for file in server.commits[OLD]
    ), "each file of it once, by one process"


def test_a_branch_is_asked_about_once_and_may_move(server: Hub, environment: dict[str, str]) -> None:
    (first,) = ask(1, REPO, environment)
    assert first.endswith(sha256(server, OLD))
    asked = len(server.requests)
    (again,) = ask(1, REPO, environment)
    assert again == first
    about_it = [request for request in server.requests[asked:] if REPO in request]
    assert about_it == [f"GET /api/models/{REPO}"], "what is in the cache is not asked for"
    server.main = NEW
    (moved,) = ask(1, REPO, environment)
    assert moved.endswith(sha256(server, NEW))
    assert Path(first.split()[0]).is_file(), "what an earlier run has open stays"


def test_offline_the_hub_is_not_asked(server: Hub, environment: dict[str, str]) -> None:
    (first,) = ask(1, REPO, environment)
    asked = len(server.requests)
    (offline,) = ask(1, REPO, environment | {"HF_HUB_OFFLINE": "1"})
    assert offline == first
    (unknown,) = ask(1, "org/other", environment | {"HF_HUB_OFFLINE": "1"})
    words = (
        "refused: checkpoint 'org/other' is no local path, and not to be had from the Hugging Face hub: OfflineModeIsEnabled"
    )
    assert unknown.startswith(words)
    assert len(server.requests) == asked


def test_a_hub_that_does_not_answer_leaves_its_cache(server: Hub, environment: dict[str, str]) -> None:
    (first,) = ask(1, REPO, environment)
    (alone,) = ask(1, REPO, environment | {"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert f"going on with what its cache holds, commit {OLD}" in alone
    assert alone.endswith(first)


def test_a_damaged_file_of_its_cache_is_fetched_anew(server: Hub, environment: dict[str, str]) -> None:
    (first,) = ask(1, REPO, environment)
    path = Path(first.split()[0])
    path.resolve().write_bytes(path.read_bytes()[:-8] + bytes(8))
    (refused,) = ask(1, REPO, environment | {"HF_HUB_OFFLINE": "1"})
    assert "refused: checkpoint 'org/model': model.safetensors has the sha256" in refused
    (again,) = ask(1, REPO, environment)
    assert again.endswith(first)
    assert server.gets(f"/{REPO}/resolve/{OLD}/model.safetensors") == 2


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"README.md": b"x"}, "hub repository 'org/model' has no model.safetensors or pytorch_model.bin"),
        ({"model.safetensors.index.json": b"{}"}, "checkpoint 'org/model' is split into several files"),
        (None, "not to be had from the Hugging Face hub: RepositoryNotFoundError: 404"),
    ],
)
def test_repositories_without_weights(
    files: dict[str, bytes] | None, words: str, server: Hub, environment: dict[str, str]
) -> None:
    server.commits = {} if files is None else {OLD: files}
    (refused,) = ask(1, REPO, environment)
    assert words in refused
    assert "\n" not in refused
