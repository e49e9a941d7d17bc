"""ray_cluster.yaml by Ray's own validator, its commands as far as they run anywhere, and the two policies beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
POLICIES = ROOT / "configs" / "aws"


@pytest.fixture
def cluster() -> dict[str, Any]:
    config = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
    assert isinstance(config, dict)
    return config


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    prepared = prepare_config(cluster)
    validate_config(prepared)
    types = prepared["available_node_types"]
    assert {name: (one["min_workers"], one["max_workers"]) for name, one in types.items()} == {
        "head": (0, 0),
        "cpu": (0, 8),
        "gpu": (0, 8),
    }
    assert prepared["worker_setup_commands"] == cluster["setup_commands"]


def test_ray_would_refuse_a_mistake(cluster: dict[str, Any]) -> None:
    import jsonschema

    cluster["available_node_types"]["cpu"]["ressources"] = {}
    with pytest.raises(jsonschema.ValidationError, match="ressources"):
        validate_config(prepare_config(cluster))


def test_the_head_runs_no_tasks_and_workers_are_spot(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0, "GPU": 0}
    assert types["gpu"]["resources"]["GPU"] == 1
    assert 0 < types["gpu"]["resources"]["CPU"] < 8, "some of its cores, not all"
    for name in ("cpu", "gpu"):
        assert types[name]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_no_keys_roles_alone_and_only_ssh_is_open(cluster: dict[str, Any]) -> None:
    assert "aws_credentials" not in cluster["provider"]
    assert "IpPermissions" not in cluster["provider"]["security_group"]
    for one in cluster["available_node_types"].values():
        assert one["node_config"]["IamInstanceProfile"]["Name"].startswith("capsieve-")
        assert one["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
    (start,) = (line for line in cluster["head_start_ray_commands"] if "ray start" in line)
    assert "--dashboard-host=127.0.0.1" in start
    for line in (start, cluster["worker_start_ray_commands"][1]):
        assert "RAY_AUTH_MODE=token" in line


def test_machines_get_what_pyproject_asks_for_in_the_versions_of_the_lock(cluster: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "capsieve-venv" / "bin").mkdir(parents=True)
    (tmp_path / "capsieve-venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "capsieve-setup").mkdir()
    for remote, local in cluster["file_mounts"].items():
        if remote.startswith("~/capsieve-setup/"):
            (tmp_path / remote.removeprefix("~/")).write_bytes((ROOT / local).read_bytes())
    (command,) = (line for line in cluster["setup_commands"] if "tomllib" in line)
    subprocess.run(["bash", "-c", command], check=True, env={**os.environ, "HOME": str(tmp_path)}, timeout=60)
    wanted = (tmp_path / "capsieve-setup" / "wanted.txt").read_text().split()
    assert wanted == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]

    (install,) = (line for line in cluster["setup_commands"] if "pip install" in line)
    assert "-r ~/capsieve-setup/wanted.txt -c ~/capsieve-setup/requirements.lock" in install
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    (botocore,) = (line.partition("==")[2] for line in lock if line.startswith("botocore=="))
    assert f"boto3=={botocore}" in " ".join(cluster["head_setup_commands"]), "released together, and boto3 needs its own"


def test_the_head_may_start_what_the_file_names_and_nothing_else(cluster: dict[str, Any]) -> None:
    policy = json.loads((POLICIES / "head-policy.json").read_text())
    statements = {one["Sid"]: one for one in policy["Statement"]}
    conditions = statements["StartMachinesOfThisCluster"]["Condition"]
    types = cluster["available_node_types"]
    workers = [types[name]["node_config"] for name in ("cpu", "gpu")]
    assert conditions["StringEquals"]["ec2:InstanceType"] == [one["InstanceType"] for one in workers]
    assert conditions["StringEquals"]["aws:RequestTag/ray-cluster-name"] == cluster["cluster_name"]
    (profile,) = {one["IamInstanceProfile"]["Name"] for one in workers}
    assert conditions["ArnEquals"]["ec2:InstanceProfile"].endswith(f":instance-profile/{profile}")


@pytest.mark.parametrize("name", ["policy.json", "head-policy.json"])
def test_policies_allow_single_actions_and_no_services(name: str) -> None:
    policy = json.loads((POLICIES / name).read_text())
    assert policy["Version"] == "2012-10-17"
    for statement in policy["Statement"]:
        assert set(statement) <= {"Sid", "Effect", "Action", "Resource", "Condition"}
        actions = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        assert not any("*" in action for action in actions)
        if statement["Resource"] == "*":
            assert all(action.startswith("ec2:Describe") for action in actions), "AWS knows no narrower resource for these"
