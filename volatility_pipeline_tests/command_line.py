"""Running the `volatility` command in this process, as a person would."""

import contextlib
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from volatility_pipeline.cli import console
from volatility_pipeline.cli.app import main


@dataclass(frozen=True)
class Answer:
    """What a command said, and its exit code."""

    code: int
    out: str
    errors: str


def volatility(*arguments: object, data: Path) -> Answer:
    """Runs a command on a data root."""
    out, errors = io.StringIO(), io.StringIO()
    code = 0
    with (
        patch.object(sys, "argv", ["volatility", *map(str, arguments), "--data", str(data)]),
        patched_console(console.OUT, out),
        patched_console(console.ERRORS, errors),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Answer(code, out.getvalue(), errors.getvalue())


@contextlib.contextmanager
def patched_console(target: console.Console, stream: io.StringIO) -> Iterator[None]:
    """Sends a console's output to a stream, wide enough that no line is folded."""
    with patch.object(target, "_file", stream), patch.object(target, "_width", 200):
        yield
