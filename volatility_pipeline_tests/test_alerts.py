"""The alerts' ledger and channels: raised once, delivered through faults, kills and restarts."""

import asyncio
import contextlib
import json
import logging
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from hypothesis import given, settings
from hypothesis import strategies as st

from volatility_pipeline.definitions import CHECKS
from volatility_pipeline.domain.alerts import KINDS, RUNBOOK, Alert, as_json, as_slack
from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.feed.alert_topic import AlertTopic
from volatility_pipeline.feed.kafka import Cluster
from volatility_pipeline.resources.alert_channels import Log, Webhook
from volatility_pipeline.resources.alerts import (
    Alerts,
    Delivery,
    end_spikes,
    raise_spikes,
    retry_after,
)
from volatility_pipeline_tests.broker import free_port
from volatility_pipeline_tests.command_line import volatility
from volatility_pipeline_tests.domain.test_alerts import predicted

ROOT = Path(__file__).parents[1]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECRET = "xoxb-0123456789"
KEY = ("run_failed", "BTC-USD", "models")


class Crash(BaseException):
    """The process ends here."""


@dataclass
class Clock:
    """The time, which goes on when told to."""

    now: datetime = NOON
    is_crashing: bool = False

    def __call__(self) -> datetime:
        if self.is_crashing:
            raise Crash
        return self.now

    def on(self, **time: float) -> datetime:
        self.now += timedelta(**time)
        return self.now


@dataclass
class Recipient:
    """A channel that takes alerts, refuses them, or dies having taken one."""

    name: str = "recipient"
    seconds: float | None = None
    taken: list[Alert] = field(default_factory=list)
    refusal: str | None = None
    is_crashing: bool = False

    def send(self, alert: Alert) -> str | None:
        if self.refusal is not None:
            return self.refusal
        self.taken.append(alert)
        if self.is_crashing:
            raise Crash
        return None


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recipient() -> Recipient:
    return Recipient()


@pytest.fixture
def alerts(tmp_path: Path, recipient: Recipient, clock: Clock) -> Alerts:
    return Alerts(tmp_path, (recipient,), clock=clock)


def failure(seconds: float = 0, **other: Any) -> Alert:
    since = NOON + timedelta(seconds=seconds)
    kind, product, partition = KEY
    given: dict[str, Any] = {"kind": kind, "product": product, "partition": partition}
    return Alert(**{**given, "title": "The run failed.", "since": since, **other})


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


# Raising and recovering


def test_alert_is_raised_once_per_key_and_again_after_it_was_over(
    alerts: Alerts, recipient: Recipient
) -> None:
    assert alerts.raise_(failure(0))
    assert not alerts.raise_(failure(0))
    assert not alerts.raise_(failure(5))
    (entry,) = alerts.open()
    assert (entry.alert.since, entry.alert.noticed_at) == (NOON, after(5))

    assert alerts.recover(*KEY, at=after(60), title="It runs again.", link="there")
    assert not alerts.recover(*KEY, at=after(70))
    assert alerts.open() == []
    assert not alerts.raise_(failure(60))
    assert alerts.raise_(failure(80))

    assert [(alert.title, alert.is_recovery, alert.since) for alert in recipient.taken] == [
        ("The run failed.", False, NOON),
        ("It runs again.", True, NOON),
        ("The run failed.", False, after(80)),
    ]
    assert recipient.taken[1].link == "there"
    assert [entry.alert.recovered_at for entry in alerts.history()] == [None, after(60)]


def test_products_partitions_and_kinds_are_alerts_of_their_own(alerts: Alerts) -> None:
    for other in ({}, {"product": "ETH-USD"}, {"partition": "splits"}, {"kind": "check_failed"}):
        assert alerts.raise_(failure(**other))
    assert len(alerts.open()) == 4
    assert [entry.alert.kind for entry in alerts.open("check_failed")] == ["check_failed"]
    alerts.recover(*KEY, at=after(1))
    assert len(alerts.open()) == 3


def test_events_told_again_in_their_order_change_nothing(alerts: Alerts) -> None:
    def tell() -> list[bool]:
        return [
            alerts.raise_(failure(10)),
            alerts.raise_(failure(20)),
            alerts.recover(*KEY, at=after(30)),
            alerts.raise_(failure(40)),
        ]

    assert tell() == [True, False, True, True]
    before = alerts.history()
    assert tell() == [False, False, False, False]
    assert alerts.history() == before
    assert len(alerts.open()) == 1


def test_success_from_before_a_failure_does_not_end_it(alerts: Alerts) -> None:
    alerts.raise_(failure(10))
    assert not alerts.recover(*KEY, at=after(5))
    assert not alerts.recover(*KEY, at=after(10))
    assert len(alerts.open()) == 1


def test_worse_is_told_again_and_better_is_not(alerts: Alerts, recipient: Recipient) -> None:
    for seconds, severity in enumerate(("warning", "info", "critical", "warning")):
        alerts.raise_(failure(seconds, severity=severity))
    assert [alert.severity for alert in recipient.taken] == ["warning", "critical"]
    (entry,) = alerts.open()
    assert entry.alert.severity == "critical"
    assert len({alert.id for alert in recipient.taken}) == 2


def test_nothing_raised_is_an_empty_list_and_writes_nothing(alerts: Alerts) -> None:
    assert alerts.history() == alerts.open() == []
    assert alerts.newest("spike", "BTC-USD") is None
    assert alerts.deliver() == 0
    assert not alerts.recover(*KEY, at=NOON)
    assert {path.name for path in alerts.root.rglob("*") if path.is_file()} <= {"alerts.sqlite"}


# Delivery


def test_what_fails_is_tried_again_ever_later_and_delivered_in_order(
    alerts: Alerts, recipient: Recipient, clock: Clock
) -> None:
    recipient.refusal = "it answered 500"
    alerts.raise_(failure())
    for attempts in range(1, 12):
        assert alerts.open()[0].deliveries == (
            Delivery("recipient", "pending", attempts, "it answered 500"),
        )
        longest = min(5 * 2 ** (attempts - 1), 900)
        clock.on(seconds=longest / 2 - 0.01)
        assert alerts.deliver() == 0
        assert alerts.open()[0].deliveries[0].attempts == attempts
        clock.on(seconds=longest / 2 + 0.02)
        assert alerts.deliver() == 0
    alerts.raise_(failure(partition="splits"))
    assert alerts.open()[0].deliveries[0].attempts == 0  # a channel known to be silent costs none

    recipient.refusal = None
    clock.on(minutes=15)
    assert alerts.deliver() == 2
    assert [alert.partition for alert in recipient.taken] == ["models", "splits"]
    assert {each.state for entry in alerts.open() for each in entry.deliveries} == {"sent"}
    assert alerts.deliver() == 0


def test_retries_differ_among_processes() -> None:
    assert len({retry_after(3) for _ in range(20)}) > 10
    assert retry_after(10**6) <= timedelta(minutes=15)


def test_what_waited_for_seven_days_is_given_up_and_said(
    alerts: Alerts, recipient: Recipient, clock: Clock
) -> None:
    recipient.refusal = "it answered 404"
    alerts.raise_(failure())
    clock.on(days=6.9)
    alerts.deliver()
    alerts.raise_(failure(partition="splits"))
    assert {entry.deliveries[0].state for entry in alerts.open()} == {"pending"}
    clock.on(days=0.2)
    alerts.deliver()
    newer, older = alerts.open()
    assert newer.deliveries[0].state == "pending"
    assert older.deliveries == (Delivery("recipient", "given_up", 3, "it answered 404"),)
    answer = volatility("alerts", data=alerts.root)
    assert "recipient: given up, 3 attempts; it answered 404" in answer.out


def test_silent_channel_does_not_hold_up_another(
    tmp_path: Path, recipient: Recipient, clock: Clock
) -> None:
    silent = Recipient("silent", refusal="no")
    alerts = Alerts(tmp_path, (silent, recipient), clock=clock)
    alerts.raise_(failure())
    assert len(recipient.taken) == 1
    states = {each.channel: each.state for each in alerts.open()[0].deliveries}
    assert states == {"recipient": "sent", "silent": "pending"}


def test_channel_that_never_answers_and_one_that_breaks_cost_their_time_and_no_error(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    broken: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", broken.append)

    class Silent(Recipient):
        def send(self, _: Alert) -> str | None:
            release.wait(60)
            return None

    class Broken(Recipient):
        def send(self, _: Alert) -> str | None:
            raise ValueError("a fault of ours")

    channels = (Silent("silent", seconds=0.1), Broken("broken", seconds=0.1))
    alerts = Alerts(tmp_path, channels, clock=clock)
    try:
        assert alerts.raise_(failure())
        for delivery in alerts.open()[0].deliveries:
            assert delivery.state == "pending"
            assert delivery.reason == "it does not answer within 0.1 s"
        assert [str(each.exc_value) for each in broken] == ["a fault of ours"]
    finally:
        release.set()


def test_alert_that_is_raised_while_another_process_delivers_is_delivered_by_that(
    tmp_path: Path, clock: Clock
) -> None:
    other_raised = []

    class Busy(Recipient):
        def send(self, alert: Alert) -> str | None:
            if not self.taken:
                other_raised.append(Alerts(tmp_path, (self,), clock=clock).raise_(second))
                assert len(self.taken) == 0  # the other's turn had to wait
            return super().send(alert)

    busy, second = Busy(), failure(partition="splits")
    Alerts(tmp_path, (busy,), clock=clock).raise_(failure())
    assert other_raised == [True]
    assert [alert.partition for alert in busy.taken] == ["models", "splits"]


KEYS = st.sampled_from(["a", "b", "c"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("raise"), KEYS, st.sampled_from(["warning", "critical"])),
        st.tuples(st.just("recover"), KEYS),
        st.tuples(st.sampled_from(["deliver", "refuse", "accept", "restart", "wait"])),
        st.tuples(st.just("crash in ledger"), KEYS),
        st.tuples(st.just("crash in delivery"), KEYS),
    ),
    max_size=20,
)


@settings(deadline=None, derandomize=True, database=None, max_examples=25)
@given(steps=STEPS)
def test_whatever_happens_nothing_is_lost_and_only_a_crash_repeats(
    steps: list[tuple[str, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root, clock, recipient = tmp_path_factory.mktemp("ledger"), Clock(), Recipient()
    alerts = Alerts(root, (recipient,), clock=clock)
    is_open: dict[str, str] = {}
    told: list[str] = []  # ids in the order in which they were raised
    crashes = 0

    def alert(name: str, severity: str) -> Alert:
        return failure(partition=name, severity=severity, since=clock.on(seconds=1))

    for what, *arguments in steps:
        name = arguments[0] if arguments else ""
        if what == "raise":
            raised = alert(name, arguments[1])
            is_news = name not in is_open or (is_open[name], arguments[1]) == (
                "warning",
                "critical",
            )
            assert alerts.raise_(raised) == is_news
            if is_news:
                is_open[name] = arguments[1]
                told.append(raised.id)
        elif what == "recover":
            was_open = is_open.pop(name, None) is not None
            assert alerts.recover(*KEY[:2], name, at=clock.on(seconds=1)) == was_open
            if was_open:
                told.append("")  # the ledger's to name: its alert may have been noticed again
        elif what == "crash in ledger":
            raised, clock.is_crashing = alert(name, "warning"), True
            with contextlib.suppress(Crash):  # a repetition never gets so far
                alerts.raise_(raised)
            clock.is_crashing = False
        elif what == "crash in delivery":
            raised, recipient.is_crashing = alert(name, "critical"), True
            is_news = is_open.get(name) != "critical"
            try:
                alerts.raise_(raised)
            except Crash:
                crashes += 1
            recipient.is_crashing = False
            if is_news:
                is_open[name] = "critical"
                told.append(raised.id)
        elif what == "restart":
            alerts = Alerts(root, (recipient,), clock=clock)
        elif what == "wait":
            clock.on(minutes=15)
        elif what == "deliver":
            alerts.deliver()
        else:
            recipient.refusal = "no" if what == "refuse" else None
        opened = [entry.alert.partition for entry in alerts.open()]
        assert sorted(opened) == sorted(is_open)

    recipient.refusal = None
    clock.on(minutes=15)
    alerts.deliver()
    taken = [one.id for one in recipient.taken]
    first = list(dict.fromkeys(taken))
    assert len(first) == len(told)
    assert all(expected in ("", got) for expected, got in zip(told, first, strict=True))
    assert len(taken) - len(first) <= crashes


PROGRAM = """
import sys, time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from volatility_pipeline.domain.alerts import Alert
from volatility_pipeline.resources.alerts import Alerts
root, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

class File:
    name, seconds = "file", None
    def send(self, alert):
        with (root / "taken").open("a") as file:
            file.write(alert.id + chr(10))

alerts = Alerts(root, (File(),))
(root / name).touch()
while not (root / "go").exists():
    time.sleep(0.001)
since = datetime(2026, 3, 1, tzinfo=UTC)
for n in range(count):
    when = since + timedelta(seconds=n)
    alerts.raise_(Alert("run_failed", "", f"step {n % 20}", "It failed.", when))
    alerts.recover("run_failed", "", f"step {n % 20}", at=when + timedelta(seconds=0.5))
alerts.deliver()
"""


def process(root: Path, name: str, count: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(root), name, str(count)])


def test_two_processes_that_notice_the_same_raise_one_alert(tmp_path: Path) -> None:
    both = [process(tmp_path, name, 20) for name in ("one", "other")]
    while not all((tmp_path / name).exists() for name in ("one", "other")):
        time.sleep(0.01)
    (tmp_path / "go").touch()
    assert [each.wait(60) for each in both] == [0, 0]
    history = Alerts(tmp_path).history()
    assert sorted(entry.alert.partition for entry in history) == sorted(
        f"step {n}" for n in range(20)
    )
    taken = (tmp_path / "taken").read_text().split()
    assert len(taken) == len(set(taken)) == 40


def test_process_killed_at_any_moment_and_started_again_loses_and_repeats_no_alert(
    tmp_path: Path,
) -> None:
    moments, kills, count = random.Random(20260301), 3, 60
    (tmp_path / "go").touch()
    for kill in range(kills):
        killed = process(tmp_path, f"started {kill}", count)
        while not (tmp_path / f"started {kill}").exists():
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.4))
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    assert process(tmp_path, "last", count).wait(60) == 0
    history = Alerts(tmp_path).history()
    assert [entry.alert.partition for entry in reversed(history)] == [
        f"step {n % 20}" for n in range(count)
    ]
    assert all(entry.alert.is_recovery for entry in history)
    assert {each.state for entry in history for each in entry.deliveries} == {"sent"}
    taken = (tmp_path / "taken").read_text().split()
    assert len(set(taken)) == 2 * count
    assert len(taken) - len(set(taken)) <= kills


# Channels


def test_log_has_one_line_an_alert_at_its_level(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    alerts = Alerts(tmp_path)
    alerts.raise_(failure())
    alerts.raise_(failure(kind="drift", severity="warning"))
    alerts.recover(*KEY, at=after(60))
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        (
            "CRITICAL",
            "CRITICAL: run_failed, BTC-USD, models: The run failed. "
            "What to do: docs/runbook.md#a-run-failed",
        ),
        (
            "WARNING",
            "WARNING: drift, BTC-USD, models: The run failed. "
            "What to do: docs/runbook.md#data-drifted",
        ),
        (
            "INFO",
            "RECOVERED after 60 s: run_failed, BTC-USD, models: The run failed. "
            "What to do: docs/runbook.md#a-run-failed",
        ),
    ]


@dataclass
class Hooked:
    """A webhook's server: what it answers, and what it was sent."""

    port: int = field(default_factory=free_port)
    answer: int | str = 200
    got: list[tuple[dict[str, str], Any]] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/services/{SECRET}"

    def start(self) -> None:
        hooked = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hooked.got.append((dict(self.headers), json.loads(body)))
                if hooked.answer == "silent":
                    hooked.release.wait(60)
                elif hooked.answer == "trickle":
                    with contextlib.suppress(OSError):
                        while not hooked.release.wait(0.02):
                            self.wfile.write(b"H")
                elif hooked.answer == "garbage":
                    self.wfile.write(b"what?\r\n\r\n")
                else:
                    self.send_response(int(hooked.answer))
                    self.send_header("Location", f"http://127.0.0.1:{hooked.port}/elsewhere")
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def do_GET(self) -> None:
                raise AssertionError("a redirect was followed")

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.release.set()
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()


@pytest.fixture
def hooked() -> Iterator[Hooked]:
    server = Hooked()
    yield server
    server.stop()


def test_dead_slow_and_faulty_webhook_is_tried_until_it_is_well(
    tmp_path: Path, clock: Clock, hooked: Hooked, caplog: pytest.LogCaptureFixture
) -> None:
    alerts = Alerts(tmp_path, (Log(), Webhook(hooked.url, seconds=0.2)), clock=clock)

    def reason() -> str | None:
        clock.on(hours=1)
        alerts.deliver()
        return alerts.open()[-1].deliveries[-1].reason

    assert alerts.raise_(failure(numbers={"rows": 3}))
    assert alerts.open()[0].deliveries[1].reason == "it does not answer (Connection refused)"
    hooked.start()
    for answer, said in [
        (500, "it answered 500"),
        (404, "it answered 404"),
        (302, "it answered 302"),
        (307, "it answered 307"),
        ("silent", "it does not answer within 0.2 s"),
        ("trickle", "it does not answer within 0.2 s"),
        ("garbage", "it does not answer (BadStatusLine)"),
    ]:
        hooked.answer = answer
        assert reason() == said
    assert alerts.raise_(failure(partition="splits"))
    alerts.recover(*KEY, at=after(60))
    hooked.got.clear()

    hooked.answer = 204
    clock.on(hours=1)
    assert alerts.deliver() == 3
    expected = [
        as_json(failure(numbers={"rows": 3})),
        as_json(failure(partition="splits")),
        as_json(failure(numbers={"rows": 3}, recovered_at=after(60))),
    ]
    assert [body for _, body in hooked.got] == expected
    headers = hooked.got[0][0]
    assert headers["Content-Type"] == "application/json"
    assert headers["Idempotency-Key"] == failure().id

    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert SECRET.encode() not in kept
    assert SECRET not in caplog.text + repr(alerts) + volatility("alerts", data=tmp_path).out
    assert caplog.text.count("Alerts wait for the webhook") == 1


def test_slack_gets_its_own_format_where_it_is_asked_for(hooked: Hooked) -> None:
    hooked.start()
    assert Webhook(hooked.url, "slack").send(failure()) is None
    assert [body for _, body in hooked.got] == [as_slack(failure())]


def test_slacks_address_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    posted = []

    class Opened:
        def open(self, request: Any, timeout: float) -> Any:
            assert timeout == 2
            posted.append(json.loads(request.data))
            return contextlib.nullcontext()

    monkeypatch.setattr("volatility_pipeline.resources.alert_channels._OPENER", Opened())
    url = "https://hooks.slack.com/services/T0/B0/x"
    assert Webhook(url).send(failure()) is None
    assert Webhook(url, "json").send(failure()) is None
    assert posted == [as_slack(failure()), as_json(failure())]


@pytest.mark.parametrize(
    "url",
    [
        "hooks.example.com/secret",
        "file:///etc/secret",
        "ftp://example.com/secret",
        "https:///secret",
        "https://example.com:x/secret",
        "https://example.com/a secret",
        "https://exämple.com/secret",
        "http://[secret",
        "",
    ],
)
def test_address_that_is_none_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(BadInputError, match=r"^ALERT_WEBHOOK_URL: no address of a webhook") as said:
        Webhook(url)
    assert "secret/" not in str(said.value)
    assert not url or url not in str(said.value)


def test_name_that_does_not_resolve_is_said_so() -> None:
    said = Webhook("http://no-such-host.invalid/x").send(failure())
    assert said is not None
    assert said.startswith("it does not answer (")
    assert Webhook(f"http://{'x' * 70}.invalid/").send(failure()) is not None


def test_kafka_topic_gets_what_waited_once_the_broker_answers(
    broker: str, tmp_path: Path, clock: Clock
) -> None:
    nobody = AlertTopic(Cluster(f"127.0.0.1:{free_port()}"), "alerts.test")
    alerts = Alerts(tmp_path, (nobody,), clock=clock)
    alerts.raise_(failure())
    alerts.raise_(failure(product="", partition=""))
    said = alerts.open()[-1].deliveries[0].reason
    assert said is not None
    assert said.startswith(f"Kafka at {nobody.cluster.bootstrap_servers} does not answer (")

    clock.on(hours=1)
    alerts = Alerts(tmp_path, (AlertTopic(Cluster(broker), "alerts.test", 30),), clock=clock)
    alerts.recover(*KEY, at=after(60))
    assert {each.state for entry in alerts.history() for each in entry.deliveries} == {"sent"}
    got = asyncio.run(consume(broker, "alerts.test", 3))
    assert [(key, json.loads(value)["is_recovery"]) for key, value in got] == [
        (b"BTC-USD", False),
        (b"", False),
        (b"BTC-USD", True),
    ]
    assert json.loads(got[0][1]) == as_json(failure())


async def consume(broker: str, topic: str, count: int) -> list[tuple[bytes, bytes]]:
    async with AIOKafkaConsumer(
        topic, bootstrap_servers=broker, auto_offset_reset="earliest"
    ) as consumer:
        messages = [await asyncio.wait_for(consumer.getone(), 30) for _ in range(count)]
        assert {message.partition for message in messages} == {0}
        return [(message.key, message.value) for message in messages]


@pytest.mark.parametrize("answer", [400, 413, 422])
def test_alert_that_the_webhook_rejects_is_given_up_and_holds_up_no_other(
    tmp_path: Path, clock: Clock, hooked: Hooked, answer: int
) -> None:
    alerts = Alerts(tmp_path, (Webhook(hooked.url),), clock=clock)
    hooked.answer = answer
    hooked.start()
    alerts.raise_(failure())
    (delivery,) = alerts.open()[0].deliveries
    assert (delivery.state, delivery.attempts) == ("given_up", 1)
    assert delivery.reason == f"it answered {answer}"
    hooked.answer = 200
    alerts.raise_(failure(partition="splits"))
    (delivery,) = alerts.open()[0].deliveries
    assert delivery.state == "sent"
    assert len(hooked.got) == 2


# Spikes


def test_spike_is_told_once_with_its_end_however_often_its_rows_are_seen(
    alerts: Alerts, recipient: Recipient
) -> None:
    rows = predicted(range(900), [*range(100, 130), *range(170, 200), *range(300, 310)])
    for end in range(60, 900, 30):
        seen = rows[max(end - 120, 0) : end]
        for _ in range(2):
            restarted = Alerts(alerts.root, (recipient,), clock=alerts.clock)
            raise_spikes(restarted, "BTC-USD", seen, now=after(end))
    assert [(alert.partition, alert.recovered_at) for alert in recipient.taken] == [
        ("2026-03-01T12:01:40Z", None),
        ("2026-03-01T12:01:40Z", after(199 + 60)),
        ("2026-03-01T12:05:00Z", None),
        ("2026-03-01T12:05:00Z", after(309 + 60)),
    ]
    later = predicted([*range(100), *range(900, 910)], [905])
    assert raise_spikes(alerts, "ETH-USD", later, now=after(910)) == 1


def test_backfill_of_old_days_raises_nothing(alerts: Alerts) -> None:
    rows = predicted(range(900), range(900))
    assert raise_spikes(alerts, "BTC-USD", rows, now=NOON + timedelta(days=2)) == 0
    assert alerts.history() == []


def test_older_rows_seen_after_newer_ones_change_nothing(
    alerts: Alerts, recipient: Recipient
) -> None:
    rows = predicted(range(460), [*range(100, 110), *range(400, 410)])
    raise_spikes(alerts, "BTC-USD", rows, now=after(460))
    before = alerts.history()
    assert [alert.is_recovery for alert in recipient.taken] == [False, True, False]
    for end in (105, 120, 300, 405, 450):
        assert raise_spikes(alerts, "BTC-USD", rows[:end], now=after(460)) == 0
    assert alerts.history() == before


def test_spike_ends_though_no_row_comes_after_it(alerts: Alerts, recipient: Recipient) -> None:
    raise_spikes(alerts, "BTC-USD", predicted(range(110), range(100, 110)), now=after(110))
    assert end_spikes(alerts, now=after(109 + 60 + 600)) == 0  # a later row may still come
    assert end_spikes(alerts, now=after(109 + 60 + 601)) == 1
    assert [alert.recovered_at for alert in recipient.taken] == [None, after(109 + 60)]
    assert end_spikes(alerts, now=after(7200)) == 0


# The command


def test_command_lists_alerts_and_chooses_among_them(alerts: Alerts) -> None:
    assert volatility("alerts", data=alerts.root).out == "No alerts.\n"
    alerts.raise_(failure(title="It failed [at 3]."))
    alerts.raise_(failure(3600, kind="drift", product="ETH-USD", partition="", severity="info"))
    alerts.recover(*KEY, at=after(60))
    shown = volatility("alerts", data=alerts.root)
    assert shown.code == 0
    for text in (
        "2026-03-01 13:00:00",
        "models: It failed [at 3].",
        "recovered 2026-03-01 12:01:00",
        "docs/runbook.md#data-drifted",
    ):
        assert text in shown.out
    assert shown.out.index("drift") < shown.out.index("run_failed")

    def kinds(*arguments: object) -> list[str]:
        lines = volatility("alerts", "--json", *arguments, data=alerts.root).out.splitlines()
        return [json.loads(line)["kind"] for line in lines]

    assert kinds() == ["drift", "run_failed"]
    assert kinds("--open") == ["drift"]
    assert kinds("--product", "BTC-USD") == ["run_failed"]
    assert kinds("--since", "2026-03-01T12:30:00") == ["drift"]
    assert kinds("--since", "2026-03-02") == []
    nothing = volatility("alerts", "--open", "--product", "BTC-USD", data=alerts.root)
    assert nothing.out == "No open alerts.\n"
    line = json.loads(volatility("alerts", "--json", data=alerts.root).out.splitlines()[0])
    assert line["deliveries"] == [
        {"channel": "recipient", "state": "sent", "attempts": 1, "reason": None}
    ]


def test_every_kind_has_its_section_in_the_runbook() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / RUNBOOK).read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
    assert {kind.anchor for kind in KINDS.values()} <= anchors


def test_every_blocking_check_is_in_the_runbook() -> None:
    text = (ROOT / RUNBOOK).read_text()
    specs = [spec for check in CHECKS for spec in check.check_specs if spec.blocking]
    assert specs
    for spec in specs:
        assert re.search(rf"^\| .*`{spec.name}`.* \|$", text, re.MULTILINE), spec.name
