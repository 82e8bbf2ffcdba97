"""The REST API: what it answers, what it refuses and how, its pages, its server over a socket."""

import asyncio
import base64
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from volatility_pipeline.domain.ladder import MODEL_INPUTS
from volatility_pipeline.domain.models import probabilities
from volatility_pipeline.domain.schemas import FEATURE_COLUMNS
from volatility_pipeline.resources.champions import CHALLENGER, CHAMPION
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.serving import api, bodies, limits, server
from volatility_pipeline.serving.api import Service, create_app
from volatility_pipeline.serving.limits import TokenBuckets
from volatility_pipeline.serving.live import LiveStatus
from volatility_pipeline.serving.predictor import Predictor
from volatility_pipeline_tests.command_line import volatility
from volatility_pipeline_tests.registered_models import champions
from volatility_pipeline_tests.serving_lake import (
    BTC,
    ETH,
    EWMA,
    PERSISTENCE,
    Clock,
    asked,
    copied,
    live,
    make,
    predictor,
)

NEWEST = datetime(2026, 4, 4, 23, 40, tzinfo=UTC)
ROWS = 120
KEY = "open sesame"
STATUS = LiveStatus(
    newest_event={BTC: NEWEST - timedelta(seconds=2), "DOGE-USD": NEWEST},
    late=3,
    messages=1000,
    faulty=4,
    lag=7,
    source="a test",
    running_since=NEWEST,
)
METRICS = {
    *("requests", "predictions", "gaps", "reconnects", "late_events", "reload_failures"),
    *("request_seconds", "probability", "feature_age_seconds", "feed_age_seconds"),
    *("consumer_lag", "drift_severity", "champion_age_seconds", "model_loaded"),
}
"""What dashboards and alerts ask for, without `volatility_`."""

Given = dict[str, Any]


class Client:
    """Asks an application, without a socket between."""

    def __init__(self, app: limits.Application, address: str = "127.0.0.1") -> None:
        self.transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(address, 1))

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        return asyncio.run(self._request(method, path, more))

    async def _request(self, method: str, path: str, more: Given) -> httpx.Response:
        async with httpx.AsyncClient(transport=self.transport, base_url="http://here") as client:
            return await client.request(method, path, **more)

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.request("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.request("POST", path, **more)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with a champion; nothing in this module changes its registry."""
    return make(tmp_path_factory.mktemp("served"))


@pytest.fixture
def clock() -> Clock:
    """Half a second after the newest row."""
    return Clock(NEWEST + timedelta(seconds=0.5))


@pytest.fixture
def serving(root: Path, clock: Clock) -> Iterator[Predictor]:
    """A predictor with two minutes of rows; its log goes with the test."""
    made = predictor(root, clock)
    yield made
    made.stop()
    for path in made.log.folder.glob("*/*"):
        path.unlink()


@pytest.fixture
def service(serving: Predictor, root: Path) -> Service:
    """All that the routes share, two minutes of live rows taken."""
    made = Service(serving, Lake(root), status=lambda: STATUS)
    frame = asked(root)
    times = frame["ts"].dt.tz_localize(UTC)
    chosen = frame[(times <= NEWEST) & (times > NEWEST - timedelta(seconds=ROWS))]
    serving.take([live(row) for row in chosen.itertuples()])
    return made


@pytest.fixture
def client(service: Service) -> Client:
    """A client without a key, of an API that asks for none."""
    return Client(create_app(service))


def body(root: Path, count: int = 1, **changed: Any) -> Given:
    """Rows of the lake, as a caller would send them."""
    rows = []
    for row in asked(root).head(count).itertuples():
        features = live(row).features
        rows.append({"product": BTC, **features, "threshold": row.trailing_threshold, **changed})
    return {"rows": rows}


def faults(answer: Any) -> dict[str, str]:
    """The faults of a 422 by place."""
    assert answer.status_code == 422, answer.text
    return {".".join(map(str, fault["loc"])): fault["msg"] for fault in answer.json()["detail"]}


# ---------------------------------------------------------------------------------- POST /predict


def test_rows_are_answered_in_their_order_as_the_champion_answers_them(
    client: Client, root: Path
) -> None:
    answer = client.post("/predict", json=body(root, 50))
    assert answer.status_code == 200, answer.text
    said = answer.json()["predictions"]
    served = champions(root).find(BTC)
    assert served is not None
    frame = asked(root).head(50)
    frame = frame.assign(threshold=frame["trailing_threshold"])
    expected = probabilities(champions(root).load(served), frame)
    np.testing.assert_allclose([one["probability"] for one in said], expected, rtol=1e-12)
    assert said[0] == {
        "product": BTC,
        "probability": said[0]["probability"],
        "threshold": frame["threshold"].iloc[0],
        "decision_threshold": served.decision_threshold,
        "is_alert": said[0]["probability"] >= served.decision_threshold,
        "model": "persistence",
        "version": PERSISTENCE,
    }


def test_every_row_of_the_table_features_is_a_row_that_may_be_asked_about(root: Path) -> None:
    row = bodies.row_model(MODEL_INPUTS)
    for one in asked(root).itertuples():
        row.model_validate({"product": BTC, **live(one).features})


@pytest.mark.parametrize("name", FEATURE_COLUMNS)
def test_missing_feature_is_named_and_never_zero(client: Client, root: Path, name: str) -> None:
    given = body(root)
    del given["rows"][0][name]
    assert faults(client.post("/predict", json=given)) == {f"body.rows.0.{name}": "Field required"}


def test_unknown_feature_is_named(client: Client, root: Path) -> None:
    given = body(root, 2)
    given["rows"][1]["realised_volatility_60s"] = 1.0
    assert faults(client.post("/predict", json=given)) == {
        "body.rows.1.realised_volatility_60s": "Extra inputs are not permitted"
    }


@pytest.mark.parametrize("name", FEATURE_COLUMNS)
def test_null_is_taken_only_where_the_table_has_nulls(
    client: Client, root: Path, name: str
) -> None:
    answer = client.post("/predict", json=body(root, **{name: None}))
    is_nullable = name.startswith(
        ("spread_mean", "order_book_imbalance", "volume_velocity", "microprice_gap")
    ) or name in ("realized_volatility_900s", "realized_volatility_3600s")
    assert answer.status_code == (200 if is_nullable else 422)
    if not is_nullable:
        assert list(faults(answer)) == [f"body.rows.0.{name}"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mid", 0),
        ("mid", "85000"),
        ("mid", True),
        ("mid", 1e300),
        ("realized_volatility_60s", -1e-9),
        ("order_book_imbalance_30s", 1.01),
        ("trade_intensity_60s", [1]),
        ("threshold", -1),
        ("product", 7),
        ("product", "X" * 41),
    ],
)
def test_value_that_cannot_be_is_refused_by_its_place(
    client: Client, root: Path, name: str, value: Any
) -> None:
    assert list(faults(client.post("/predict", json=body(root, **{name: value})))) == [
        f"body.rows.0.{name}"
    ]


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999", "nan"])
def test_number_that_is_none_is_refused(client: Client, root: Path, word: str) -> None:
    text = json.dumps(body(root, mid="HERE")).replace('"HERE"', word)
    answer = client.post("/predict", content=text, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert word not in answer.text


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"rows": []}', '{"rows": {}}', '{"row": 1}', "[" * 100_000]
)
def test_body_that_is_no_list_of_rows_is_refused(client: Client, text: str) -> None:
    answer = client.post("/predict", content=text, headers={"content-type": "application/json"})
    assert answer.status_code == 422


def test_more_rows_than_may_be_are_refused(client: Client, root: Path) -> None:
    given = body(root)
    given["rows"] *= bodies.MOST_ROWS + 1
    assert "at most 1000 items" in faults(client.post("/predict", json=given))["body.rows"]


def test_many_faults_are_counted_and_what_was_sent_is_not_said_again(
    client: Client, root: Path
) -> None:
    given = body(root, 1, mid="secret")
    given["rows"] = [{**given["rows"][0], "x" * 5000: 1}, *given["rows"] * 899]
    answer = client.post("/predict", json=given)
    assert faults(answer)["body"] == "881 more faults"
    assert "secret" not in answer.text
    assert len(answer.text) < 4000


def test_threshold_that_is_left_out_is_the_live_one(
    client: Client, service: Service, root: Path, clock: Clock
) -> None:
    given = body(root, 2)
    del given["rows"][0]["threshold"]
    given["rows"][1]["threshold"] = None
    said = client.post("/predict", json=given).json()["predictions"]
    known = service.predictor.newest(BTC).threshold
    assert [one["threshold"] for one in said] == [known, known]
    clock.forward(60)
    answer = client.post("/predict", json=given)
    assert answer.status_code == 503
    assert answer.json()["reason"] == "no_threshold"
    assert client.post("/predict", json=body(root)).status_code == 200, "given, it takes no row"


def test_product_without_a_champion_and_unknown_product_are_told_apart(
    client: Client, root: Path
) -> None:
    without = client.post("/predict", json=body(root, product=ETH))
    assert (without.status_code, without.json()["reason"]) == (503, "no_champion")
    assert without.headers["retry-after"] == "60"
    unknown = client.post("/predict", json=body(root, product="DOGE-USD"))
    assert unknown.status_code == 404
    assert unknown.json()["detail"] == (
        "There is no such product here; there are: BTC-USD, ETH-USD."
    )


# ----------------------------------------------------------------------------------- what is live


def test_newest_prediction_says_how_old_it_is_and_who_made_it(
    client: Client, service: Service
) -> None:
    newest = service.predictor.newest(BTC)
    assert client.get("/predict/BTC-USD").json() == {
        "product": BTC,
        "ts": "2026-04-04T23:40:00Z",
        "age_seconds": 0.5,
        "probability": newest.probability,
        "threshold": newest.threshold,
        "decision_threshold": newest.model.decision_threshold,
        "is_alert": newest.is_alert,
        "model": "persistence",
        "version": PERSISTENCE,
        "realized_volatility_60s": newest.realized_volatility_60s,
        "seconds_since_tick": newest.seconds_since_tick,
        "is_threshold_whole": True,
        "trained_on": "recorded",
    }


def test_old_prediction_is_refused_with_its_age(client: Client, clock: Clock) -> None:
    clock.forward(41.5)
    answer = client.get("/predict/BTC-USD")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json() == {
        "detail": "BTC-USD: the newest row is 42 s old; 10 s are allowed.",
        "reason": "stale",
        "age_seconds": 42.0,
    }


def test_unknown_product_is_not_found(client: Client) -> None:
    for path in ("/predict/DOGE-USD", "/history/DOGE-USD", "/predict/%ff%00"):
        assert client.get(path).status_code == 404, path


def test_history_is_of_the_minutes_that_are_asked_for(client: Client, service: Service) -> None:
    whole = client.get("/history/BTC-USD").json()["points"]
    assert len(whole) == ROWS
    assert whole == sorted(whole, key=lambda point: point["ts"])
    minute = client.get("/history/BTC-USD?minutes=1").json()["points"]
    assert minute == whole[-60:]
    newest = service.predictor.newest(BTC)
    assert (minute[-1]["probability"], minute[-1]["version"]) == (newest.probability, PERSISTENCE)
    assert client.get("/history/ETH-USD").json() == {"product": ETH, "points": []}
    for minutes in ("0", "61", "x"):
        assert client.get(f"/history/BTC-USD?minutes={minutes}").status_code == 422


# ------------------------------------------------------------------------------------- operation


def test_ready_tells_model_and_data_apart(client: Client, clock: Clock) -> None:
    answer = client.get("/ready")
    assert answer.status_code == 200
    said = answer.json()
    assert (said["ready"], said["model_loaded"], said["data_fresh"]) == (True, True, True)
    assert said["products"][BTC]["version"] == PERSISTENCE
    assert said["source"] == "a test"
    assert said["products"][ETH]["model_loaded"] is False, "and holds the other up in nothing"
    clock.forward(60)
    late = client.get("/ready")
    assert late.status_code == 503
    assert (late.json()["model_loaded"], late.json()["data_fresh"]) == (True, False)
    assert late.json()["products"][BTC]["data_trouble"] == (
        "BTC-USD: the newest row is 60 s old; 10 s are allowed."
    )
    assert client.get("/health").json() == {"status": "alive"}


def test_without_live_rows_to_come_a_loaded_model_is_ready(root: Path, clock: Clock) -> None:
    given = predictor(root, clock)
    answer = Client(create_app(Service(given, Lake(root)))).get("/ready")
    given.stop()
    assert answer.status_code == 200
    said = answer.json()
    assert (said["ready"], said["data_fresh"], said["source"]) == (True, False, None)


def test_threshold_that_lacks_minutes_is_said_with_the_answer(
    client: Client, service: Service, root: Path, clock: Clock
) -> None:
    clock.forward(1)
    row = next(asked(root).itertuples())
    later = NEWEST + timedelta(seconds=1)
    service.predictor.take([live(row, ts=later, is_threshold_whole=False)])
    assert client.get("/predict/BTC-USD").json()["is_threshold_whole"] is False


def test_row_whose_threshold_is_not_known_is_not_ready(
    client: Client, service: Service, root: Path, clock: Clock
) -> None:
    clock.forward(1)
    row = next(asked(root).itertuples())
    later = NEWEST + timedelta(seconds=1)
    service.predictor.take([live(row, ts=later, trailing_threshold=None)])
    answer = client.get("/ready")
    assert answer.status_code == 503
    said = answer.json()["products"][BTC]
    assert (said["model_loaded"], said["data_fresh"], said["age_seconds"]) == (True, False, 0.5)
    assert said["data_trouble"] == client.get("/predict/BTC-USD").json()["detail"]


def test_failed_reload_is_said_while_the_old_champion_is_ready(
    root: Path, tmp_path: Path, clock: Clock
) -> None:
    copy = copied(root, tmp_path / "data")
    given = predictor(copy, clock)
    given.take([live(next(asked(root).itertuples()), ts=NEWEST)])
    registry = champions(copy).tracking
    registry.tag_version(BTC, EWMA, {"sha256": "0" * 64})
    registry.move_alias(BTC, CHAMPION, EWMA)
    given.refresh()
    service = Service(given, Lake(copy))
    client = Client(create_app(service))
    said = client.get("/ready").json()
    given.stop()
    trouble = service.state(BTC).model_trouble
    assert trouble is not None, "which the page shows"
    assert "SHA-256 differs" in trouble
    assert said["ready"] is True
    assert "SHA-256 differs" in said["products"][BTC]["model_trouble"]
    assert said["products"][BTC]["version"] == PERSISTENCE
    found = client.get("/metrics").text
    assert "volatility_reload_failures_total 1.0" in found
    assert 'volatility_model_loaded{product="BTC-USD"} 1.0' in found


def test_no_champion_anywhere_is_not_ready(root: Path, tmp_path: Path, clock: Clock) -> None:
    copy = copied(root, tmp_path / "data")
    for alias in (CHAMPION, CHALLENGER):
        champions(copy).tracking.move_alias(BTC, alias, None)
    client = Client(create_app(Service(predictor(copy, clock), Lake(copy))))
    answer = client.get("/ready")
    assert answer.status_code == 503
    assert answer.json()["model_loaded"] is False
    assert client.get("/version").json()["models"] == {BTC: None, ETH: None}


def test_version_names_each_model_by_its_archive(client: Client, root: Path) -> None:
    served = champions(root).find(BTC)
    assert served is not None
    said = client.get("/version").json()
    assert said["models"][BTC] == {
        "model": "persistence",
        "version": PERSISTENCE,
        "sha256": served.stored.sha256,
        "trained_until": served.fitted_until,
        "trained_on": "recorded",
        "policy": "trailing",
        "challenger": EWMA,
    }
    assert said["started_at"] == "2026-04-04T23:40:00.500000Z"


def test_metrics_are_those_that_dashboards_ask_for(client: Client, root: Path) -> None:
    client.get("/predict/BTC-USD")
    client.post("/predict", json=body(root, 5))
    for path in ("/nowhere", "/predict/DOGE-USD", "/predict/" + "x" * 30):
        client.get(path)
    client.request("BREW", "/health")
    families = {
        family.name.removeprefix("volatility_"): family
        for family in text_string_to_metric_families(client.get("/metrics").text)
    }
    assert set(families) >= METRICS
    samples = {
        (sample.name.removeprefix("volatility_"), *sorted(sample.labels.values())): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert samples["requests_total", "/predict/{product}", "200", "GET"] == 1
    assert samples["requests_total", "/predict/{product}", "404", "GET"] == 2
    assert samples["requests_total", "404", "GET", "unmatched"] == 1
    assert samples["requests_total", "/health", "405", "other"] == 1
    assert samples["request_seconds_count", "/predict"] == 1
    assert samples["predictions_total", BTC, "persistence"] == ROWS + 5
    assert samples["probability_count", BTC] == ROWS
    assert samples["feature_age_seconds", BTC] == 0.5
    assert samples["feed_age_seconds", BTC] == 2.5
    assert ("feed_age_seconds", "DOGE-USD") not in samples, "a product that is not served"
    assert samples["consumer_lag",] == 7
    assert samples["late_events_total",] == 3
    assert (samples["model_loaded", BTC], samples["model_loaded", ETH]) == (1, 0)
    assert samples["drift_severity", BTC] == -1
    assert samples["champion_age_seconds", BTC] < 0 < time.time(), "the clock stands in 2026"


def test_drift_and_gaps_are_told_from_the_lake(
    client: Client, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gaps = [
        {"kind": "recorded", "subject": BTC, "reason": "disconnected: closed", "is_hint": False},
        {"kind": "recorded", "subject": ETH, "reason": "disconnected: closed", "is_hint": False},
        {"kind": "offsets", "subject": "ticks.raw-0", "is_hint": False},
        {"kind": "silence", "subject": BTC, "is_hint": True},
    ]
    today = datetime.now(UTC).date()
    monkeypatch.setattr(Lake, "manifest", lambda _, day: {"gaps": gaps} if day == today else None)
    verdicts = {("drift", BTC): {"verdict": {"severity": "high"}}}
    monkeypatch.setattr(Lake, "record", lambda _, *partition: verdicts.get(partition))
    found = client.get("/metrics").text
    assert f'volatility_gaps{{day="{today}"}} 3.0' in found
    assert f'volatility_reconnects{{day="{today}"}} 1.0' in found
    assert 'volatility_drift_severity{product="BTC-USD"} 3.0' in found
    assert 'volatility_drift_severity{product="ETH-USD"} -1.0' in found


# --------------------------------------------------------------------------------- what is refused


def test_key_is_asked_for_but_not_by_health_and_the_pages(service: Service) -> None:
    client = Client(create_app(service, key=KEY))
    for path in ("/predict/BTC-USD", "/history/BTC-USD", "/ready", "/version", "/metrics", "/no"):
        assert client.get(path).status_code == 401, path
        assert client.get(path, headers={"X-API-Key": KEY[:-1]}).status_code == 401, path
    for path in ("/health", "/", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200, path
    for headers in ({"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}):
        assert client.get("/predict/BTC-USD", headers=headers).status_code == 200
    document = client.get("/openapi.json").json()
    assert document["security"] == [{"key": []}]


def test_client_that_asks_too_often_is_told_when_to_come_again(service: Service) -> None:
    app = create_app(service, rate=3)
    client = Client(app)
    codes = [client.get("/health").status_code for _ in range(5)]
    assert codes == [200, 200, 200, 429, 429]
    assert client.get("/health").headers["retry-after"] == "1"
    assert Client(app, "10.0.0.9").get("/health").status_code == 200


@settings(max_examples=50)
@given(
    rate=st.floats(0.5, 50),
    pauses=st.lists(st.floats(0, 2), min_size=1, max_size=60),
)
def test_bucket_lets_through_its_rate_and_a_second_s_worth_at_most(
    rate: float, pauses: list[float]
) -> None:
    now = 0.0
    buckets = TokenBuckets(rate, lambda: now)
    passed = 0
    for pause in pauses:
        now += pause
        wait = buckets.wait("a")
        passed += wait == 0
        if wait:
            now += wait * (1 + 1e-9)
            assert buckets.wait("a") == 0, "it is as it was told"
            passed += 1
    assert passed <= rate * now + max(1, rate) + 1e-6


def test_forgotten_clients_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_CLIENTS", 3)
    buckets = TokenBuckets(1, lambda: 0.0)
    for client in "abcd":
        assert buckets.wait(client) == 0
    assert buckets.wait("d") == 1
    assert buckets.wait("a") == 0, "the one that was away longest is new again"


def test_large_body_is_refused_whether_it_says_its_length_or_not(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BODY_BYTES", 1000)
    assert client.post("/predict", content=b"x" * 1001).status_code == 413

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 400

    assert client.post("/predict", content=pieces()).status_code == 413
    assert client.post("/predict", content=b"x" * 1000).status_code == 422


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "evil.com."])
def test_public_name_is_answered_only_with_a_key(service: Service, host: str) -> None:
    without, with_key = Client(create_app(service)), Client(create_app(service, key=KEY))
    for path in ("/predict/BTC-USD", "/"):
        refused = without.get(path, headers={"Host": host})
        assert refused.status_code == 421
        assert "VOLATILITY_API_KEY" in refused.json()["detail"]
    asked = {"Host": host, "X-API-Key": KEY}
    assert with_key.get("/predict/BTC-USD", headers=asked).status_code == 200


@pytest.mark.parametrize(
    "host", ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "api:8000", "host.docker.internal"]
)
def test_address_and_private_name_are_answered_without_a_key(client: Client, host: str) -> None:
    assert client.get("/predict/BTC-USD", headers={"Host": host}).status_code == 200


def test_nobody_is_sent_elsewhere(client: Client) -> None:
    for path in ("/docs/", "/predict/BTC-USD/", "/predict/"):
        answer = client.get(path, headers={"Host": "elsewhere"})
        assert (answer.status_code, answer.headers.get("location")) == (404, None)


def test_answers_are_sealed(client: Client) -> None:
    for path in ("/predict/BTC-USD", "/nowhere", "/docs"):
        headers = client.get(path).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "OPTIONS"])
def test_other_methods_are_refused(client: Client, method: str) -> None:
    assert client.request(method, "/predict/BTC-USD").status_code == 405


# ------------------------------------------------------------------------------------------ pages


class Page(HTMLParser):
    """The addresses that a page names, and its inline scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "action")
        ]
        assert not any(name.startswith("on") or name == "style" for name, _ in attrs), tag


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_page_needs_this_server_alone(client: Client, path: str) -> None:
    answer = client.get(path)
    text = answer.text
    for address in Page(text).addresses:
        assert not re.match(r"(?i)[a-z]+:(?!,)|//", address), address
    assert "innerHTML" not in text
    policy = answer.headers["content-security-policy"]
    for tag in ("script", "style"):
        for inline in re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL):
            digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_docs_name_every_path_and_feature(client: Client) -> None:
    text = client.get("/docs").text
    document = client.get("/openapi.json").json()
    for path in document["paths"]:
        assert f" {path}</code>" in text
    for name in FEATURE_COLUMNS:
        assert f"<code>{name}</code>" in text


def test_example_in_the_document_is_answered(client: Client) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    (example,) = operation["requestBody"]["content"]["application/json"]["schema"]["examples"]
    answer = client.post("/predict", json=example)
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"][0]["threshold"] == example["rows"][0]["threshold"]


# ---------------------------------------------------------------------------------- over a socket


@contextmanager
def listening(service: Service, **more: Any) -> Iterator[int]:
    """A real server in a thread; the port it listens on. What is not read fills it soon."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        made = server.make_server(create_app(service, **more))
        thread = threading.Thread(target=lambda: asyncio.run(made.serve(sockets=[listener])))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            service.stopping.set()
            made.should_exit = True
            thread.join(timeout=20)
            assert not thread.is_alive()


def until_closed(connection: socket.socket) -> bytes:
    """What the server says before it hangs up."""
    connection.settimeout(20)
    return b"".join(iter(lambda: connection.recv(4096), b""))


def is_cut_off(connection: socket.socket, piece: bytes) -> bool:
    """Whether the server hangs up while it is sent pieces."""
    connection.settimeout(20)
    try:
        for _ in range(2000):
            connection.sendall(piece)
            time.sleep(0.005)
    except ConnectionError:
        return True
    return False


def test_body_that_comes_too_slowly_is_refused(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.2)
    with listening(service) as port, socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        assert until_closed(slow).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost: a\r\n"])
def test_head_that_does_not_come_is_not_waited_for(
    service: Service, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)
    with listening(service) as port, socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(sent)
        assert until_closed(slow) == b""


def test_head_of_any_size_is_refused(service: Service) -> None:
    with listening(service) as port, socket.create_connection(("127.0.0.1", port)) as large:
        large.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100_000 + b"\r\n\r\n")
        assert until_closed(large).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("before", [b"", b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n"])
def test_header_without_an_end_is_cut_off(service: Service, before: bytes) -> None:
    with listening(service) as port, socket.create_connection(("127.0.0.1", port)) as endless:
        endless.sendall(before + b"GET /health HTTP/1.1\r\nHost: a\r\nX: ")
        assert is_cut_off(endless, b"x" * 10_000)


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(b"\r\n", id="a blank line"),
        pytest.param(b"GET", id="half a head"),
    ],
)
def test_connection_that_asks_nothing_more_is_closed(
    service: Service, monkeypatch: pytest.MonkeyPatch, after: bytes
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)
    with listening(service) as port, socket.create_connection(("127.0.0.1", port)) as idle:
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200 ")
        idle.sendall(after)
        until_closed(idle)


def test_body_of_a_refused_request_is_not_read_for_ever(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    with (
        listening(service, key=KEY) as port,
        socket.create_connection(("127.0.0.1", port)) as endless,
    ):
        endless.sendall(head)
        assert endless.recv(4096).startswith(b"HTTP/1.1 401 ")
        assert is_cut_off(endless, b"1\r\nx\r\n")


def test_client_that_reads_nothing_is_hung_up_on(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "STALL_SECONDS", 0.2)
    with listening(service) as port, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", port))
        deaf.sendall(b"GET /history/BTC-USD HTTP/1.1\r\nHost: a\r\n\r\n" * 50)
        assert is_cut_off(deaf, b"\r\n")


def test_more_connections_than_may_be_are_closed_unheard(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 1)
    with listening(service) as port, socket.create_connection(("127.0.0.1", port)) as first:
        with socket.create_connection(("127.0.0.1", port)) as second:
            assert is_cut_off(second, b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        first.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert first.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_bodies_together_have_a_limit_and_make_room_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HELD_BYTES", 1000)
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 600\r\n\r\n"
    with listening(service) as port, socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(head + b"x" * 599)
        answer = httpx.post(f"http://127.0.0.1:{port}/predict", content=b"x" * 600)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        slow.sendall(b"x")
        assert slow.recv(4096).startswith(b"HTTP/1.1 422 ")
        answer = httpx.post(f"http://127.0.0.1:{port}/predict", content=b"x" * 600)
        assert answer.status_code == 422


def test_stream_begins_with_what_is_known_follows_each_row_and_ends_with_the_server(
    service: Service, root: Path, clock: Clock
) -> None:
    with listening(service) as port:
        address = f"http://127.0.0.1:{port}/events"
        with httpx.stream("GET", address, timeout=20) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = (line for line in answer.iter_lines() if line.startswith("data: "))
            first = json.loads(next(lines)[6:])
            clock.forward(1)
            row = next(asked(root).itertuples())
            service.predictor.take([live(row, ts=NEWEST + timedelta(seconds=1))])
            second = json.loads(next(lines)[6:])
            service.stopping.set()
            for _ in lines:
                pass
    assert [state["product"] for state in first] == [BTC, ETH]
    assert first[0]["live"]["ts"] == "2026-04-04T23:40:00Z"
    assert first[0]["refusal"] is None
    assert first[1]["live"] is None
    assert first[1]["refusal"]["reason"] == "no_champion"
    assert second[0]["live"]["ts"] == "2026-04-04T23:40:01Z"


def test_more_streams_than_may_be_are_refused(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "MOST_STREAMS", 1)
    with listening(service) as port:
        address = f"http://127.0.0.1:{port}/events"
        with httpx.stream("GET", address, timeout=20) as open_one:
            lines = open_one.iter_lines()
            next(lines)
            with httpx.stream("GET", address, timeout=20) as refused:
                assert refused.status_code == 503
                assert json.loads(refused.read())["reason"] == "too_many_streams"
            lines.close()


# ---------------------------------------------------------------------------------- the command


def test_service_says_where_it_is_and_stops_at_once_with_a_stream_open(root: Path) -> None:
    command = [str(Path(sys.executable).with_name("volatility")), "serve"]
    environment = {**os.environ, "VOLATILITY_DATA": str(root)}
    process = subprocess.Popen(
        [*command, "--port", "0", "--source", "none"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        said = ""
        while "Serving on" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        address = re.findall(r"http://127.0.0.1:\d+", said)[0]
        assert httpx.get(f"{address}/version").json()["models"][BTC]["version"] == PERSISTENCE
        assert httpx.get(f"{address}/predict/{BTC}").json()["reason"] == "no_row"
        answer = httpx.post(f"{address}/predict", json=body(root))
        assert answer.status_code == 200
        assert "server" not in answer.headers
        with httpx.stream("GET", f"{address}/events", timeout=20) as stream:
            lines = stream.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        said += process.stderr.read()
        process.stderr.close()
    assert "BTC-USD: Persistence (version 1) answers." in said
    assert "Without live rows" in said
    assert "Stopped. 4 requests answered" in said


def test_address_in_use_is_said_in_words(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = volatility("serve", "--port", port, "--source", "none", data=tmp_path)
    assert answer.code == 2
    assert f"127.0.0.1:{port}: Address already in use; --host or --port" in answer.errors


# ---------------------------------------------------------------------------------- the document


def test_whatever_is_asked_the_answer_is_one_that_the_document_names(
    service: Service, root: Path
) -> None:
    with listening(service, rate=0) as port:
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
        operations = [found.ok() for found in schema.get_all_operations()]
        assert len(operations) == 8
        for operation in operations:
            if operation.path == "/events":  # has no end
                continue

            @settings(
                max_examples=40,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy())
            def holds(case: Any) -> None:
                case.call_and_validate()

            holds()
