"""The scan for vulnerabilities: what OSV knows fails the check, and silence is called silence."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker

from volatility_pipeline_tests import vulnerabilities
from volatility_pipeline_tests.broker import free_port
from volatility_pipeline_tests.vulnerabilities import LOCK, OSV, main

Package = tuple[str, str]
JINJA2 = ("jinja2", "2.4.1")
LOCKED = re.compile(r"^([\w.-]+)==(\S+)(?: ; (.+?))? \\$", re.MULTILINE)
ADVISORY = {
    "id": "GHSA-aaaa-bbbb-cccc",
    "aliases": ["CVE-2026-0001"],
    "summary": "Templates run what strangers write.",
    "affected": [
        {
            "package": {"name": "flask", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.9"}]}],
        }
    ],
}


class Osv(ThreadingHTTPServer):
    """A service that speaks OSV's protocol; it knows what a test told it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.known: dict[Package, list[dict[str, Any]]] = {JINJA2: [ADVISORY]}
        self.asked: set[Package] = set()
        self.url = f"http://127.0.0.1:{self.server_port}/v1/query"


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Osv

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert query["package"]["ecosystem"] == "PyPI"
        package = query["package"]["name"], query["version"]
        self.server.asked.add(package)
        found = self.server.known.get(package)
        body = json.dumps({"vulns": found} if found else {}).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
        self.wfile.write(head.encode() + body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def osv(monkeypatch: pytest.MonkeyPatch) -> Iterator[Osv]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Osv() as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        yield server
        server.shutdown()
        serving.join()


@pytest.fixture
def small_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock of two packages."""
    lock = tmp_path / "requirements.lock"
    lock.write_text(
        "".join(f"{name} \\\n    --hash=sha256:{'0' * 64}\n" for name in ("flask==3.1", "rich==14"))
    )
    monkeypatch.setattr(vulnerabilities, "LOCK", lock)


def test_every_locked_package_of_this_platform_is_asked_about(
    osv: Osv, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["--osv-url", osv.url]) == 0
    assert "No known vulnerabilities found" in capfd.readouterr().err
    lock = LOCKED.findall(LOCK.read_text())
    here = {(name, version) for name, version, mark in lock if not mark or Marker(mark).evaluate()}
    assert len(lock) > 200
    assert osv.asked - {JINJA2} == here


@pytest.mark.usefixtures("small_lock")
def test_known_vulnerability_fails_the_check_and_is_named(
    osv: Osv, capfd: pytest.CaptureFixture[str]
) -> None:
    osv.known["flask", "3.1"] = [ADVISORY]
    assert main(["--osv-url", osv.url]) == 1
    said = capfd.readouterr()
    assert re.search(r"^flask +3\.1 +CVE-2026-0001 +3\.9", said.out, re.MULTILINE)
    assert "Found 1 known vulnerability in 1 package" in said.err


@pytest.mark.usefixtures("small_lock")
def test_judged_vulnerability_passes_and_another_of_the_package_does_not(
    osv: Osv, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vulnerabilities, "JUDGED", {"CVE-2026-0001": "No stranger writes one."})
    osv.known["flask", "3.1"] = [ADVISORY]
    assert main(["--osv-url", osv.url]) == 0
    assert "1 ignored" in capfd.readouterr().err
    osv.known["flask", "3.1"] = [ADVISORY, ADVISORY | {"id": "GHSA-dddd-eeee-ffff", "aliases": []}]
    assert main(["--osv-url", osv.url]) == 1
    assert "GHSA-dddd-eeee-ffff" in capfd.readouterr().out


def test_where_nobody_answers_it_says_that_nothing_was_scanned(
    capfd: pytest.CaptureFixture[str],
) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1/query"
    assert main(["--osv-url", url]) == 0
    said = capfd.readouterr()
    assert said.out.startswith(f"Nothing was scanned for vulnerabilities: {url} gave no answer")
    assert "Connection refused" in said.out
    assert "No known vulnerabilities" not in said.out + said.err


def test_who_answers_and_knows_nothing_is_not_taken_for_an_all_clear(
    osv: Osv, capfd: pytest.CaptureFixture[str]
) -> None:
    osv.known.clear()
    assert main(["--osv-url", osv.url]) == 0
    said = capfd.readouterr()
    assert said.out.startswith("Nothing was scanned for vulnerabilities")
    assert "No known vulnerabilities" not in said.out + said.err
    assert osv.asked == {JINJA2}


def test_check_scans_and_every_judgement_has_its_reason() -> None:
    makefile = (LOCK.parent / "Makefile").read_text()
    (recipe,) = re.findall(r"^check:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert "\t$(BIN)/python -m volatility_pipeline_tests.vulnerabilities\n" in recipe
    assert OSV.startswith("https://")
    for name, reason in vulnerabilities.JUDGED.items():
        assert re.fullmatch(r"(CVE|GHSA|PYSEC)-[\w-]+", name)
        assert reason.endswith(".")
