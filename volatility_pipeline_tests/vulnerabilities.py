"""Known vulnerabilities of the locked packages, as OSV lists them: a part of `make check`.

What belongs here: whether somebody could be asked, and which findings were judged. What does not:
reading the lock and comparing versions, which is pip-audit's. It looks at the packages that the
lock names for this platform; not at the images of docker-compose.yaml, nor at Kafka's jars.
"""

import argparse
import json
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

OSV = "https://api.osv.dev/v1/query"
LOCK = Path(__file__).parents[1] / "requirements.lock"
JUDGED: dict[str, str] = {}
"""By identifier, why a known vulnerability of a locked version is none here."""
VULNERABLE = {"package": {"name": "jinja2", "ecosystem": "PyPI"}, "version": "2.4.1"}
"""What every such service has something to say about; pip-audit alone takes silence for health."""


def silence(url: str) -> str | None:
    """Why nobody can be asked there; None where somebody can."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(VULNERABLE).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            found = json.load(answer)
    except (OSError, HTTPException, ValueError) as error:
        return str(error)
    is_known = isinstance(found, dict) and found.get("vulns")
    return None if is_known else "what answers knows no vulnerability of jinja2 2.4.1"


def main(arguments: Sequence[str] | None = None) -> int:
    """Says what was found; returns 1 where something was that nobody has judged."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--osv-url", default=OSV, help="a service that speaks OSV's protocol")
    url = parser.parse_args(arguments).osv_url
    why = silence(url)
    if why is not None:
        sys.stdout.write(
            f"Nothing was scanned for vulnerabilities: {url} gave no answer ({why}).\n"
        )
        return 0
    options = ["--strict", "--disable-pip", "--progress-spinner", "off", "-r", str(LOCK)]
    service = ["--vulnerability-service", "osv", "--osv-url", url]
    judged = [option for name in JUDGED for option in ("--ignore-vuln", name)]
    command = [sys.executable, "-m", "pip_audit", *options, *service, *judged]
    return subprocess.run(command).returncode


if __name__ == "__main__":
    raise SystemExit(main())
