"""configs/kuberay, as far as it can be checked without Kubernetes: schemas, KubeRay's published fields, and what must agree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.cluster.kuberay_fields import KINDS, POD

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs" / "kuberay"
KUBERNETES = "1.34"  # any that is supported by its makers


def documents() -> list[dict[str, Any]]:
    return [one for path in sorted(FOLDER.glob("*.yaml")) for one in yaml.safe_load_all(path.read_text())]


def unknown_fields(value: Any, fields: Any, where: str) -> Iterator[str]:
    """Names, and values of closed lists, that the reference does not have."""
    if isinstance(fields, set):
        if value not in fields:
            yield f"{where}: {value}"
    elif isinstance(fields, list):
        for number, item in enumerate(value):
            yield from unknown_fields(item, fields[0], f"{where}[{number}]")
    elif isinstance(fields, dict):
        for name, item in value.items():
            if name not in fields:
                yield f"{where}.{name}"
            else:
                yield from unknown_fields(item, fields[name], f"{where}.{name}")


def pod_templates(value: Any, fields: Any) -> Iterator[dict[str, Any]]:
    if fields == POD:
        yield value
    elif isinstance(fields, list):
        for item in value:
            yield from pod_templates(item, fields[0])
    elif isinstance(fields, dict):
        for name, item in value.items():
            yield from pod_templates(item, fields[name])


def all_pod_templates() -> list[dict[str, Any]]:
    found = [template for one in documents() if one["kind"] in KINDS for template in pod_templates(one, KINDS[one["kind"]])]
    return [*found, *(one["spec"]["jobTemplate"]["spec"]["template"] for one in documents() if one["kind"] == "CronJob")]


def the(kind: str) -> dict[str, Any]:
    (one,) = (one for one in documents() if one["kind"] == kind)
    return one


def test_objects_of_kubernetes_follow_its_schemas() -> None:
    plain = [one for one in documents() if one["kind"] not in KINDS]
    assert {one["kind"] for one in plain} == {"CronJob", "NetworkPolicy", "ServiceAccount"}
    for one in plain:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
    wrong = json.loads(json.dumps(the("CronJob")))
    wrong["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["resources"]["limit"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_every_pod_template_follows_the_schema_of_pods() -> None:
    templates = all_pod_templates()
    assert len(templates) == 8, "head and two groups twice, two submitters"
    for template in templates:
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_objects_of_kuberay_have_fields_that_its_reference_has() -> None:
    for kind, fields in KINDS.items():
        assert list(unknown_fields(the(kind), fields, kind)) == []
    wrong = the("RayCluster") | {"spec": {"headGroupSpec": {"rayStartParam": {}}, "authOptions": {"mode": "tokens"}}}
    assert list(unknown_fields(wrong, KINDS["RayCluster"], "RayCluster")) == [
        "RayCluster.spec.headGroupSpec.rayStartParam",
        "RayCluster.spec.authOptions.mode: tokens",
    ]


def test_start_parameters_are_strings_that_ray_start_knows() -> None:
    import click
    from ray.scripts.scripts import start

    assert isinstance(start, click.Command)
    known = {option for parameter in start.params for option in parameter.opts}
    spec = the("RayCluster")["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert {f"--{name}" for name in group["rayStartParams"]} <= known
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_a_job_runs_on_the_same_cluster_as_the_nights() -> None:
    assert the("RayJob")["spec"]["rayClusterSpec"] == the("RayCluster")["spec"]
    version = the("RayCluster")["spec"]["rayVersion"]
    assert f'"ray[data,default]=={version}"' in (ROOT / "pyproject.toml").read_text()


def test_pods_have_limits_no_privileges_and_one_image() -> None:
    images = set()
    for template in all_pod_templates():
        assert template["metadata"]["labels"]["app.kubernetes.io/name"] == "capsieve", "or no network policy holds"
        assert template["spec"]["securityContext"]["runAsNonRoot"]
        for container in template["spec"]["containers"]:
            images.add(container["image"])
            resources = container["resources"]
            assert resources["requests"]["memory"] == resources["limits"]["memory"]
            assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    (image,) = images
    assert image.partition(":")[2] not in ("", "latest")


def test_the_head_runs_no_tasks_and_machines_with_gpus_lend_some_cores() -> None:
    spec = the("RayCluster")["spec"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    gpu = groups["gpu"]
    lent = int(gpu["rayStartParams"]["num-cpus"])
    assert 0 < lent < int(gpu["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert "num-cpus" not in groups["cpu"]["rayStartParams"], "all that the pod may use"


def test_the_night_is_submitted_with_the_clusters_token_to_its_head() -> None:
    (container,) = the("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    cluster = the("RayCluster")
    assert f"--address=http://{cluster['metadata']['name']}-head-svc:8265" in container["command"]
    (token,) = (entry for entry in container["env"] if entry["name"] == "RAY_AUTH_TOKEN")
    assert token["valueFrom"]["secretKeyRef"]["name"] == cluster["spec"]["authOptions"]["secretName"]
