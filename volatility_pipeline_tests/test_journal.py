"""The spool between recorder and Kafka: in order, bounded, and there again after a kill."""

import asyncio
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volatility_pipeline.domain.errors import BadInputError
from volatility_pipeline.feed import journal as journal_module
from volatility_pipeline.feed.journal import Journal, Record

ROOM = 1 << 30
values = st.binary(max_size=40).map(lambda value: value.replace(b"\n", b""))


def kill(journal: Journal) -> None:
    """Leaves a journal as a killed process does: what it wrote is there, its lock is not."""
    journal._lock.close()
    journal._reader.close()
    os.close(journal._writer)
    os.close(journal._position)


@given(st.lists(st.one_of(values, st.sampled_from(["take", "fail", "kill"])), max_size=40))
def test_everything_arrives_in_order_whatever_fails_or_is_killed(steps: list[bytes | str]) -> None:
    async def play(folder: Path) -> tuple[list[Record], list[Record]]:
        journal = Journal(folder, ROOM, [].append)
        given_, arrived = [], []
        for number, step in enumerate(steps):
            if isinstance(step, bytes):
                given_.append((b"key", number, step))
                assert journal.append(b"key", number, step)
                continue
            await asyncio.sleep(0)  # the event loop's turn, in which records reach the disk
            if step == "kill":
                kill(journal)
                journal = Journal(folder, ROOM, [].append)
            else:
                records = journal.take(100)
                if step == "fail":
                    journal.release()
                else:
                    arrived += records
                    journal.acknowledge()
        await asyncio.sleep(0)
        while records := journal.take(100):
            arrived += records
            journal.acknowledge()
        journal.close()
        return given_, arrived

    with TemporaryDirectory() as folder:
        given_, arrived = asyncio.run(play(Path(folder)))
        assert arrived == given_
        assert not list(Path(folder).glob("*.records")), "an empty spool leaves no file behind"


def test_many_files_are_taken_in_order_and_deleted_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "FILE_BYTES", 1000)

    async def play() -> list[bytes]:
        journal = Journal(tmp_path, ROOM, [].append)
        for number in range(500):
            journal.append(b"k", 0, b"%d" % number)
            await asyncio.sleep(0)
        assert len(list(tmp_path.glob("*.records"))) > 3
        kill(journal)
        journal = Journal(tmp_path, ROOM, [].append)
        found = []
        while records := journal.take(300):
            found += [value for _, _, value in records]
            journal.acknowledge()
        assert len(list(tmp_path.glob("*.records"))) == 1
        journal.close()
        return found

    assert asyncio.run(play()) == [b"%d" % number for number in range(500)]


def test_a_full_spool_takes_only_what_is_owed(tmp_path: Path) -> None:
    async def play() -> None:
        journal = Journal(tmp_path, 100, [].append)
        assert journal.append(b"k", 0, b"x" * 80)
        assert not journal.append(b"k", 0, b"y" * 80)
        assert journal.append(b"k", 0, b"gap", is_owed=True)
        await asyncio.sleep(0)
        assert [value for _, _, value in journal.take(ROOM)] == [b"x" * 80, b"gap"]
        journal.acknowledge()
        assert journal.append(b"k", 0, b"z" * 80), "there is room again"
        journal.close()

    asyncio.run(play())


def test_a_torn_last_record_is_cut_off(tmp_path: Path) -> None:
    async def play() -> list[Record]:
        journal = Journal(tmp_path, ROOM, [].append)
        journal.append(b"k", 1, b"whole")
        await asyncio.sleep(0)
        kill(journal)
        (path,) = tmp_path.glob("*.records")
        path.write_bytes(path.read_bytes() + b"k\t2\tto")
        journal = Journal(tmp_path, ROOM, [].append)
        journal.append(b"k", 3, b"next")
        await asyncio.sleep(0)
        taken = journal.take(ROOM)
        journal.close()
        return taken

    assert asyncio.run(play()) == [(b"k", 1, b"whole"), (b"k", 3, b"next")]


def test_a_disk_that_takes_nothing_lends_records_from_memory(tmp_path: Path) -> None:
    async def play() -> list[bytes]:
        journal = Journal(tmp_path, ROOM, said.append)
        found = []
        for number in range(4):
            journal.append(b"k", 0, b"%d" % number * 100)
            with files_of_at_most(0) if number < 3 else files_of_at_most(resource.RLIM_INFINITY):
                await asyncio.sleep(0.01)
            assert journal.trouble
            found += [value[:1] for _, _, value in journal.take(ROOM)]
            journal.acknowledge()
        journal.append(b"k", 0, b"healed")
        await asyncio.sleep(journal_module.RETRY_SECONDS + 0.1)
        assert journal.trouble is None
        found += [value for _, _, value in journal.take(ROOM)]
        journal.acknowledge()
        journal.close()
        return found

    said: list[str] = []
    assert asyncio.run(play()) == [b"0", b"1", b"2", b"3", b"healed"]
    assert [text.rsplit(": ")[-1] for text in said] == [
        "File too large; messages wait in memory, mend it.",
        "takes messages again.",
    ]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """While it lasts the kernel writes no file of this process beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_two_recorders_cannot_share_a_spool(tmp_path: Path) -> None:
    async def play() -> None:
        journal = Journal(tmp_path, ROOM, [].append)
        with pytest.raises(BadInputError, match="another recorder"):
            Journal(tmp_path, ROOM, [].append)
        journal.close()

    asyncio.run(play())


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file")

    async def play() -> None:
        with pytest.raises(BadInputError, match="cannot be written"):
            Journal(tmp_path / "spool", ROOM, [].append)

    asyncio.run(play())


def test_a_position_beyond_the_file_goes_back_to_its_end(tmp_path: Path) -> None:
    """A power cut may keep the position and lose the records before it."""

    async def play() -> list[bytes]:
        journal = Journal(tmp_path, ROOM, [].append)
        journal.append(b"k", 0, b"x" * 500)
        await asyncio.sleep(0)
        journal.take(ROOM)
        journal.acknowledge()
        kill(journal)
        (path,) = tmp_path.glob("*.records")
        os.truncate(path, 0)
        journal = Journal(tmp_path, ROOM, [].append)
        assert journal.backlog_bytes == 0
        journal.append(b"k", 0, b"new")
        await asyncio.sleep(0)
        found = [value for _, _, value in journal.take(ROOM)]
        journal.close()
        return found

    assert asyncio.run(play()) == [b"new"]
