"""Monitoring: the rules judge rightly, and rules and dashboard find their data at the real API."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from volatility_pipeline.domain.schemas import FEATURE_COLUMNS
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.serving.answer_log import AnswerLog
from volatility_pipeline.serving.api import Service, create_app
from volatility_pipeline.serving.live import FeatureRow, LiveStatus
from volatility_pipeline.serving.predictor import Predictor
from volatility_pipeline.serving.server import make_server
from volatility_pipeline_tests.broker import free_port
from volatility_pipeline_tests.registered_models import champions
from volatility_pipeline_tests.serving_lake import BTC, ETH, make
from volatility_pipeline_tests.tick_lake import rows

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "docker" / "prometheus"
GRAFANA = ROOT / "docker" / "grafana"
CASES = sorted((CONFIG / "tests").glob("*.yml"))
RULES = [
    rule
    for path in sorted((CONFIG / "rules").glob("*.yml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = {rule["alert"] for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
DASHBOARD = json.loads((GRAFANA / "dashboards" / "volatility.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
KEY = "the-key-of-a-test"
ASKED = {
    "/predict/BTC-USD": ("/predict/{product}", "200"),
    "/predict/ETH-USD": ("/predict/{product}", "503"),
    "/predict/NOBODY": ("/predict/{product}", "404"),
    "/version": ("/version", "200"),
}
"""What people ask, and as what it is counted."""
LABELS = ("alertname", "path", "product", "status")


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    """Prometheus and promtool, of Debian's package `prometheus`."""
    if shutil.which("prometheus") and shutil.which("promtool"):
        return
    reason = "prometheus and promtool are not installed: apt-get install prometheus"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# Rules


def test_promtool_accepts_configuration_and_rules() -> None:
    promtool(
        "check", "config", "--syntax-only", "--lint=all", "--lint-fatal", CONFIG / "prometheus.yml"
    )
    promtool("check", "rules", "--lint=all", "--lint-fatal", *sorted((CONFIG / "rules").iterdir()))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_alerts_fire_on_their_condition_and_not_without_it(path: Path) -> None:
    promtool("test", "rules", path)


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    fires: dict[str, set[bool]] = {name: set() for name in ALERTS}
    for path in CASES:
        for case in yaml.safe_load(path.read_text())["tests"]:
            for check in case["alert_rule_test"]:
                fires[check["alertname"]].add(bool(check["exp_alerts"]))
    assert fires == {name: {True, False} for name in ALERTS}


def test_every_alert_leads_to_a_section_of_the_runbook() -> None:
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
    for rule in RULES:
        if "alert" in rule:
            page, anchor = rule["annotations"]["runbook_url"].split("#")
            assert page == "docs/runbook.md"
            assert anchor in anchors
            assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_objectives_dashboard_and_rules_speak_of_the_same_series() -> None:
    objectives = (ROOT / "docs" / "slo.md").read_text()
    said = re.findall(r"volatility:[\w:]+", objectives + json.dumps(DASHBOARD))
    assert set(said) <= RECORDED
    assert {name for name in RECORDED if name.endswith(":30d")} <= set(said)
    for name in sorted(ALERTS):
        assert f"`{name}`" in objectives, "docs/slo.md says which alert tells whom"


# The dashboard


def test_dashboard_is_whole() -> None:
    (source,) = provisioned("datasources")["datasources"]
    (provider,) = provisioned("dashboards")["providers"]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"
    assert DASHBOARD["uid"] == "volatility"
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    for panel in PANELS:
        assert panel["description"].endswith(".")
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"]
            assert target["datasource"] == {"type": source["type"], "uid": source["uid"]}
        if panel["type"] != "heatmap":
            assert panel["fieldConfig"]["defaults"]["unit"]


def test_no_panel_covers_another() -> None:
    for one, other in combinations([panel["gridPos"] for panel in DASHBOARD["panels"]], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in PANELS)


def test_alerts_that_panels_name_exist() -> None:
    named = re.findall(r"alert (\w+)", " ".join(panel["description"] for panel in PANELS))
    assert set(named) == ALERTS - {
        "ServiceDown", "ManyRequests", "AvailabilityBudgetBurn", "LatencyBudgetBurn",
    }  # fmt: skip


def provisioned(what: str) -> dict[str, Any]:
    (path,) = (GRAFANA / "provisioning" / what).glob("*.yml")
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


# A real Prometheus at the real API


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API with a key, a champion and live rows of BTC, and neither of ETH; yields its address.

    Its clock goes on with the rows, a second at each: however slow this machine is, none is old.
    """
    root = make(tmp_path_factory.mktemp("served"))
    times = [datetime.now(UTC)]
    predictor = Predictor(
        champions(root),
        AnswerLog(Lake(root), print),
        print,
        products=(BTC, ETH),
        clock=lambda: times[-1],
    )
    newest = list(rows(Lake(root), "features").values())[-1]
    features = {name: newest[name] for name in FEATURE_COLUMNS}

    def take() -> None:
        now = times[-1] + timedelta(seconds=1)
        times.append(now)
        predictor.take([FeatureRow(BTC, now, features, 1e-4, now)])

    def status() -> LiveStatus:
        return LiveStatus({BTC: times[-1]}, 1, 100, 0, 3, "this test", times[0])

    service = Service(predictor, Lake(root), status=status)
    listener = socket.create_server(("127.0.0.1", 0))
    server = make_server(create_app(service, key=KEY))
    served = threading.Thread(
        target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True
    )
    stop = threading.Event()

    def live() -> None:
        while not stop.wait(0.2):
            take()

    taking = threading.Thread(target=live, daemon=True)
    predictor.start()
    take()
    served.start()
    taking.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    stop.set()
    taking.join()
    server.should_exit = True
    served.join()
    predictor.stop()
    listener.close()


@pytest.fixture(scope="module")
def ask(api: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    """A Prometheus of this machine, set up as compose does but faster; asks it a query."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((CONFIG / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms"}
    config["global"]["evaluation_interval"] = "500ms"
    config["rule_files"] = [str(CONFIG / pattern) for pattern in config["rule_files"]]
    (job,) = config["scrape_configs"]
    (targets,) = job["static_configs"]
    targets["targets"] = [api.removeprefix("http://")]
    (folder / "api-key").write_text(KEY)
    job["authorization"]["credentials_file"] = str(folder / "api-key")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )

    def query(expression: str) -> Any:
        asked = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://{address}/api/v1/query?{asked}") as answer:
            return json.load(answer)["data"]["result"]

    assert eventually(lambda: answers(f"http://{address}/-/ready"), wanted=True)
    yield query
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)


@pytest.fixture(scope="module")
def asked(api: str, ask: Callable[[str], Any]) -> Callable[[str], Any]:
    """The same, once people have asked the API long enough to make a rate."""

    def is_seen() -> bool:
        for path in ASKED:
            ask_api(api, path)
        rates = "volatility:request_seconds:p95_5m > 0 and volatility:error_ratio:rate5m > 0"
        return bool(ask(rates))

    assert eventually(is_seen, wanted=True)
    return ask


def test_every_query_of_dashboard_and_rules_finds_data_at_the_api(
    asked: Callable[[str], Any],
) -> None:
    def is_found(expression: str) -> bool:
        values = [one["value"][1] for one in asked(expression.replace("$product", ".+"))]
        return bool(values) and not {"NaN", "+Inf", "-Inf"} & set(values)

    queries = {target["expr"] for panel in PANELS for target in panel["targets"]}
    assert [query for query in sorted(queries | RECORDED) if not is_found(query)] == []


def test_what_prometheus_says_is_what_the_api_did(api: str, asked: Callable[[str], Any]) -> None:
    # Nobody asks any more: what the API has counted of these is final, and the next scrape has it.
    counted = {
        (sample.labels["path"], sample.labels["status"]): sample.value
        for family in text_string_to_metric_families(ask_api(api, "/metrics"))
        for sample in family.samples
        if sample.name == "volatility_requests_total" and sample.labels["path"] != "/metrics"
    }
    times = counted["/version", "200"]
    assert counted == dict.fromkeys(ASKED.values(), times)

    def seen(expression: str) -> dict[tuple[str, ...], float]:
        return {
            tuple(one["metric"][label] for label in LABELS if label in one["metric"]): float(
                one["value"][1]
            )
            for one in asked(expression)
        }

    expected = {
        "min(up)": {(): 1},
        'volatility_requests_total{path!="/metrics"}': counted,
        'sum(volatility_request_seconds_count{path!="/metrics"})': {(): 4 * times},
        "volatility_model_loaded": {(BTC,): 1, (ETH,): 0},
        "volatility_drift_severity": {(BTC,): -1, (ETH,): -1},
        "volatility_feature_age_seconds <= bool 1": {(BTC,): 1},
        "volatility_feed_age_seconds <= bool 1": {(BTC,): 1},
        "volatility_consumer_lag": {(): 3},
        "volatility:freshness": {(): 0.5},
        # What a busy machine may set off as well is left out.
        'ALERTS{alertname!~"SlowRequests|ServiceDown|.+BudgetBurn"}': {
            ("ServerErrors",): 1,
            ("ModelNotLoaded", ETH): 1,
            ("StaleFeatures", ETH): 1,
        },
    }
    assert eventually(lambda: {one: seen(one) for one in expected}, expected) == expected


def ask_api(api: str, path: str) -> str:
    """What the API says to one who has the key, whatever it is."""
    request = urllib.request.Request(api + path, headers={"X-API-Key": KEY})
    try:
        with urllib.request.urlopen(request) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return str(error)


def answers(url: str) -> bool:
    """Whether somebody answers there, and well."""
    try:
        with urllib.request.urlopen(url):
            return True
    except OSError:
        return False


def eventually(look: Callable[[], Any], wanted: Any, seconds: float = 60) -> Any:
    """What is seen once it is what is wanted, or after so long."""
    deadline = time.monotonic() + seconds
    while (found := look()) != wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    return found
