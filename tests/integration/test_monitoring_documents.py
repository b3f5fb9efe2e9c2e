"""docs/monitoring: the alert rules, tested by Prometheus itself, the dashboard, and the table.

They name every exported metric, and no others.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from postfix_sync.monitoring import metrics
from tests.parts.monitor import promtool, samples
from tests.parts.statuses import status

DOCS = Path(__file__).parents[2] / "docs"
ALERTS = DOCS / "monitoring/alerts.yaml"
DASHBOARD = DOCS / "monitoring/dashboard.json"
TABLE = DOCS / "monitoring.md"

RULES: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load(ALERTS.read_text())["groups"]
    for rule in group["rules"]
}
HOST = 'job="postfix-sync", instance="mx1"'


def named(text: str) -> set[str]:
    """Return the metrics that the text names."""
    return set(re.findall(r"\bpostfix_sync_[a-z_]+", text))


def exported() -> set[str]:
    """Return every metric that can be exported."""
    return set(samples(metrics.render(status(held=True))[0]))


def test_table_documents_exactly_the_exported_metrics() -> None:
    rows = re.findall(r"^\| `(postfix_sync_\w+)` \|", TABLE.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(exported())


@pytest.mark.parametrize("path", [ALERTS, DASHBOARD], ids=["alerts", "dashboard"])
def test_alerts_and_dashboard_use_exported_metrics_only(path: Path) -> None:
    assert named(path.read_text())
    assert named(path.read_text()) <= exported()


def test_dashboard_shows_every_exported_metric() -> None:
    assert named(DASHBOARD.read_text()) == exported()


# ---- the alerts ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """When an alert fires, and when it does not: one value per minute, as promtool writes them."""

    series: str
    ill: str
    well: str
    at: str
    """The minute in which the alert fires; in the minute before, it does not."""
    labels: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)


CASES = {
    "PostfixSyncDown": Case(f"up{{{HOST}}}", "0x60", "1x2 0x3 1x60", "5m"),
    "PostfixSyncAbsent": Case(f"postfix_sync_build_info{{{HOST}}}", "_x60", "1x60", "15m"),
    "PostfixSyncStale": Case(
        f"postfix_sync_pass_last_attempt_timestamp_seconds{{{HOST}}}", "0x60", "0+60x60", "21m"
    ),
    "PostfixSyncApplyFailing": Case(
        f"postfix_sync_apply_failed{{{HOST}}}", "1x60", "1x3 0x3 1x3 0x60", "5m"
    ),
    "PostfixSyncSourceStale": Case(
        f'postfix_sync_source_state{{{HOST}, source="lists", state="stale"}}',
        "1x60",
        "1x10 0x60",
        "15m",
        {"source": "lists", "state": "stale"},
    ),
    "PostfixSyncSourceRefused": Case(
        f'postfix_sync_source_state{{{HOST}, source="lists", state="refused"}}',
        "1x60",
        "0x60",
        "10m",
        {"source": "lists", "state": "refused"},
    ),
    "PostfixSyncSourceFailed": Case(
        f'postfix_sync_source_state{{{HOST}, source="lists", state="failed"}}',
        "1x60",
        "0x60",
        "10m",
        {"source": "lists", "state": "failed"},
        beside={f"postfix_sync_apply_failed{{{HOST}}}": "0x60"},
    ),
    "PostfixSyncDestinationDown": Case(
        f'postfix_sync_probe_up{{{HOST}, destination="mm:8024"}}',
        "0x60",
        "0x3 1x60",
        "5m",
        {"destination": "mm:8024"},
    ),
    "PostfixSyncMailDeferred": Case(
        f'postfix_sync_deferred_oldest_timestamp_seconds{{{HOST}, destination="mm:8024"}}',
        "0x120",
        "0x50 _x70",
        "66m",
        {"destination": "mm:8024"},
    ),
    "PostfixSyncHeld": Case(f"postfix_sync_held{{{HOST}}}", "1x1000", "1x300 0x700", "720m"),
}


def minutes(text: str) -> int:
    return int(text.removesuffix("m"))


def alerts_in(name: str, values: str, at: int, expected: list[Any]) -> dict[str, Any]:
    """Return a promtool test: the alerts of this name that fire at that minute."""
    case = CASES[name]
    series = {case.series: values, **case.beside}
    return {
        "interval": "1m",
        "input_series": [{"series": key, "values": value} for key, value in series.items()],
        "alert_rule_test": [{"eval_time": f"{at}m", "alertname": name, "exp_alerts": expected}],
    }


def firing(name: str) -> dict[str, Any]:
    """Return the expected alert: all labels, and the annotations with their values filled in."""
    found: dict[str, str] = {"job": "postfix-sync", "instance": "mx1", **CASES[name].labels}
    if name == "PostfixSyncAbsent":
        found = {}  # without any series, there are no labels
    annotations = {
        key: re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda match: found[match[1]], text)
        for key, text in RULES[name]["annotations"].items()
    }
    return {"exp_labels": {**found, **RULES[name]["labels"]}, "exp_annotations": annotations}


def run_tests(directory: Path, *tests: Mapping[str, Any]) -> None:
    path = directory / "tests.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": list(tests)}))
    promtool("test", "rules", str(path))


def test_prometheus_accepts_the_rules() -> None:
    assert f"{len(CASES)} rules found" in promtool("check", "rules", str(ALERTS))
    assert RULES.keys() == CASES.keys()


def test_each_alert_fires_at_its_time_and_not_before(tmp_path: Path) -> None:
    tests = []
    for name, case in CASES.items():
        at = minutes(case.at)
        tests += [
            alerts_in(name, case.ill, at, [firing(name)]),
            alerts_in(name, case.ill, at - 1, []),
            alerts_in(name, case.well, at, []),
        ]
    run_tests(tmp_path, *tests)


def test_failed_sync_raises_no_alert_for_each_source(tmp_path: Path) -> None:
    found = alerts_in("PostfixSyncSourceFailed", "1x60", 30, [])
    found["input_series"][1]["values"] = "1x60"
    run_tests(tmp_path, found)


@pytest.mark.parametrize("name", RULES)
def test_each_alert_names_a_command_to_run(name: str) -> None:
    annotations = RULES[name]["annotations"]
    assert annotations.keys() == {"summary", "description"}
    assert re.search(r"\b(postfix-sync|systemctl) [a-z-]", annotations["description"])
    assert f"| {name} |" in TABLE.read_text()


# ---- the dashboard ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dashboard() -> Any:
    return json.loads(DASHBOARD.read_text())


def test_grafana_can_import_the_dashboard(dashboard: Any) -> None:
    assert (dashboard["id"], dashboard["uid"]) == (None, "postfix-sync")
    assert dashboard["schemaVersion"] >= 36
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert variables["instance"]["datasource"] == source
    taken: set[tuple[int, int]] = set()
    for number, panel in enumerate(dashboard["panels"], 1):
        assert panel["id"] == number
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"] == source
        assert all(target["datasource"] == source for target in panel["targets"])
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_prometheus_accepts_the_expressions_of_the_dashboard(
    dashboard: Any, tmp_path: Path
) -> None:
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    expressions += [
        annotation["expr"]
        for annotation in dashboard["annotations"]["list"]
        if not annotation.get("builtIn")
    ]
    for expression in expressions:
        assert 'instance=~"$instance"' in expression
    rules = [
        {"record": f"dashboard:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(expressions)
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(path))
