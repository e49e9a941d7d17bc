"""One set of names: what a run exports, what the dashboard and the alerts ask for, what docs/watching.md explains."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pipeline.bottleneck import Cause
from pipeline.schema import Status
from pipeline.watching.measures import MEASURES, STAGES, Kind
from pipeline.watching.rules import Kind as WarningKind

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "configs" / "grafana"
DASHBOARD = json.loads((GRAFANA / "capsieve.json").read_text())
ALERTS = [rule for group in yaml.safe_load((GRAFANA / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
DOCS = (ROOT / "docs" / "watching.md").read_text()
WITHOUT_LABELS = re.compile(r"\{[^}]*\}|\[[^\]]*\]")


def expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


def names_in(expression: str) -> set[str]:
    """The metrics of an expression: every name of Prometheus' alphabet that has an underscore, but for its functions."""
    words = re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?!\w|\s*\()", WITHOUT_LABELS.sub("", expression))
    return {word for word in words if "_" in word and word not in ("group_left",)}


def documented() -> dict[str, list[str]]:
    """Cells of the tables' rows whose first one is a metric."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in DOCS.splitlines() if line.startswith("| `capsieve_")
    ]
    return {cells[0].strip("`"): cells[1:] for cells in rows}


def test_the_dashboard_uses_every_metric_and_no_other() -> None:
    asked = set().union(*map(names_in, expressions()))
    assert asked == {f"ray_{name}" for name in MEASURES}
    (variable,) = [one for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]
    assert variable["definition"] == "label_values(ray_capsieve_run_info, run)"


def test_alerts_ask_for_metrics_that_are_there_and_are_explained() -> None:
    for rule in ALERTS:
        assert names_in(rule["expr"]) <= {f"ray_{name}" for name in MEASURES}, rule["alert"]
        assert f"`{rule['alert']}`" in DOCS
    assert names_in("sum(rate(ray_capsieve_typo_total[5m])) / on (run) ray_capsieve_rows") == {
        "ray_capsieve_typo_total",
        "ray_capsieve_rows",
    }, "a name that is not there would be seen"


@pytest.mark.parametrize("expression", [*expressions(), *(rule["expr"] for rule in ALERTS)])
def test_expressions_use_labels_and_values_that_there_are_and_rates_of_counters_alone(expression: str) -> None:
    for name, selector in re.findall(r"ray_(capsieve_\w+)(?:\{([^}]*)\})?", expression):
        labels = {"run", *MEASURES[name].labels}
        values = {
            "status": set(Status),
            "stage": set(STAGES),
            "cause": set(Cause),
            "kind": set(WarningKind),
            "state": {"waiting", "begun"},
        }
        for label, value in re.findall(r'(\w+)=~?"([^"]*)"', selector):
            assert label in labels
            assert label not in values or value in values[label]
    for function, name in re.findall(r"\b(rate|increase)\(ray_(capsieve_\w+)", expression):
        assert MEASURES[name].kind is Kind.COUNTER, f"{function} of a gauge"
    assert expression.count("(") == expression.count(")")


def test_names_follow_prometheus_conventions() -> None:
    for name, measure in MEASURES.items():
        assert name.endswith("_total") == (measure.kind is Kind.COUNTER), name
        assert not re.search(r"_(ms|minutes|mb|gib|percent)(_|$)", name)


def test_the_page_explains_every_metric_with_its_kind_and_labels() -> None:
    table = documented()
    assert list(table) == list(MEASURES)
    for name, measure in MEASURES.items():
        kind, labels = table[name][:2]
        assert (kind, re.findall(r"`(\w+)`", labels)) == (measure.kind, list(measure.labels)), name


def test_the_page_explains_every_warning() -> None:
    assert re.findall(r"^\| `((?!capsieve)[a-z]\w+)` \|", DOCS, re.MULTILINE) == list(WarningKind)


def test_prometheus_may_enter_and_finds_the_pods() -> None:
    monitor, policy = yaml.safe_load_all((GRAFANA / "kuberay.yaml").read_text())
    kubernetes_validate.validate(policy, "1.34", strict=True)
    cluster: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "kuberay" / "raycluster.yaml").read_text())["spec"]
    (wanted,) = monitor["spec"]["selector"]["matchLabels"].items()
    assert policy["spec"]["podSelector"]["matchLabels"] == dict([wanted])
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert wanted in group["template"]["metadata"]["labels"].items()
        (container,) = group["template"]["spec"]["containers"]
        assert "metrics" not in [port["name"] for port in container.get("ports", ())], "KubeRay adds it, as 8080"
    assert policy["spec"]["ingress"][0]["ports"] == [{"protocol": "TCP", "port": 8080}]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, which comes with Prometheus, is not installed")
def test_prometheus_itself_takes_the_alerts_and_they_alarm_when_they_ought_to() -> None:
    done = subprocess.run(
        ["promtool", "test", "rules", str(Path(__file__).parent / "alerts_test.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
