"""Compaction and retention: nothing lost, nothing twice, at whatever moment it is killed."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import zstandard

from volatility_pipeline.domain.errors import BadInputError, RefusedError
from volatility_pipeline.resources import compaction, warehouse
from volatility_pipeline.resources import lake as lakes
from volatility_pipeline.resources.compaction import compact, expire
from volatility_pipeline.resources.ingest import Ingest
from volatility_pipeline.resources.lake import Lake
from volatility_pipeline.resources.landing import import_file, land_simulation
from volatility_pipeline.resources.segments import Decoded, Segment, describe
from volatility_pipeline.resources.warehouse import Warehouse
from volatility_pipeline_tests.command_line import volatility
from volatility_pipeline_tests.test_build import market
from volatility_pipeline_tests.test_cli import assert_refused
from volatility_pipeline_tests.test_ingest import DAY, FIRST_DAY, data_of, flat, land, rows

LOG = "ticks.raw-0123abcd-0"


def landed(first: int, last: int) -> str:
    return f"{LOG}-{first:020}-{last:020}.ndjson"


def write_day(lake: Lake) -> list[bytes]:
    """Six segments of every kind, out of order, and one without a last LF; returns their lines."""
    contents = {
        landed(0, 3): data_of([flat(n, trade_id=n) for n in range(4)]),
        landed(4, 6): data_of([flat(4), "rubbish", flat(5, trade_id=5)])[:-1],
        landed(9, 9): data_of([{**flat(9), "source": "simulated"}]),
        "b.ndjson.zst": zstandard.compress(data_of([flat(20), "", flat(21)])),
        "a.ndjson": b"",
    }
    for name, content in reversed(contents.items()):
        land(lake, name, content)
    manifest(lake)
    return [line for path in lake.segments(DAY) for line in Decoded(path).lines()]


def manifest(lake: Lake) -> dict[str, Any]:
    return Ingest(lake, Warehouse(lake, threads=1)).write_manifest(DAY)


def build(lake: Lake) -> None:
    made = Ingest(lake, Warehouse(lake, threads=1))
    made.write_manifest(DAY)
    made.build_ticks(DAY)


def lines(lake: Lake) -> list[bytes]:
    """All lines that the lake sees, in order."""
    return [line for path in lake.segments(DAY) for line in Decoded(path).lines()]


def names(lake: Lake) -> list[str]:
    """All files of the day."""
    return sorted(path.name for path in lake.raw_folder(DAY).iterdir())


def missing_offsets(lake: Lake) -> list[tuple[str, int, int]]:
    return [
        (gap["subject"], gap["first"], gap["last"])
        for gap in manifest(lake)["gaps"]
        if gap["kind"] == "offsets"
    ]


def tick_rows(lake: Lake) -> list[dict[str, Any]]:
    """The ticks without the columns that say where they came from."""
    places = ("segment", "line")
    return [{k: v for k, v in row.items() if k not in places} for row in rows(lake, "ticks")]


# --- compaction


def test_compacted_segment_holds_all_lines_in_order_and_is_described_as_it_is(lake: Lake) -> None:
    before = write_day(lake)
    described = lake.describe_raw(DAY)
    made = compact(lake, DAY)
    assert made is not None
    assert made.segments == 5
    assert lines(lake) == before
    (path,) = lake.segments(DAY)
    assert path.name == made.segment.name
    assert lake.describe_raw(DAY) == [made.segment] == [describe(path)]
    assert (made.segment.lines, made.segment.is_plain, made.segment.is_simulated) == (
        11,
        False,
        True,
    )
    assert names(lake) == [path.name.replace(".ndjson.zst", ".json"), path.name, "manifest.json"]
    sidecar = json.loads((path.parent / names(lake)[0]).read_text())
    assert [Segment(**entry) for entry in sidecar["originals"]] == described
    assert sidecar["folded"] == []


def test_segments_that_are_all_plain_and_recorded_stay_so(lake: Lake) -> None:
    land(lake, "a.ndjson", data_of([flat(0)]))
    land(lake, "b.ndjson", data_of([flat(1)]))
    manifest(lake)
    made = compact(lake, DAY)
    assert made is not None
    assert (made.segment.is_plain, made.segment.is_simulated) == (True, False)


def test_manifest_stays_current_and_keeps_its_gaps_and_the_ticks_become_stale(lake: Lake) -> None:
    write_day(lake)
    build(lake)
    gaps = (lake.manifest(DAY) or {})["gaps"]
    assert {gap["kind"] for gap in gaps} == {"offsets", "trade_id"}
    before = tick_rows(lake)
    compact(lake, DAY)
    assert lake.is_manifest_current(DAY)
    assert (lake.manifest(DAY) or {})["gaps"] == gaps
    assert not Warehouse(lake, threads=1).is_current("ticks", DAY)
    build(lake)
    assert tick_rows(lake) == before
    assert {row["segment"] for row in rows(lake, "ticks")} == {lake.segments(DAY)[0].name}


def test_missing_offsets_are_found_by_the_names_that_landed(lake: Lake) -> None:
    write_day(lake)
    compact(lake, DAY)
    assert {landed(0, 3), landed(4, 6), landed(9, 9)} < lake.landed_names(DAY)
    assert missing_offsets(lake) == [(LOG, 7, 8)]
    land(lake, landed(7, 8), data_of([flat(7), flat(8)]))
    assert missing_offsets(lake) == []


def test_compacting_again_changes_nothing_and_late_segments_are_folded_in(lake: Lake) -> None:
    before = write_day(lake)
    first = compact(lake, DAY)
    assert first is not None
    unchanged = {name: (lake.raw_folder(DAY) / name).stat().st_mtime_ns for name in names(lake)}
    assert compact(lake, DAY) is None
    assert unchanged == {
        name: (lake.raw_folder(DAY) / name).stat().st_mtime_ns for name in names(lake)
    }
    land(lake, landed(7, 8), data_of([flat(7), flat(8)]))
    manifest(lake)
    second = compact(lake, DAY)
    assert second is not None
    assert lines(lake) == [*before, *data_of([flat(7), flat(8)]).splitlines()]
    assert len(names(lake)) == 3
    sidecar = json.loads(
        (lake.raw_folder(DAY) / second.segment.name)
        .with_suffix("")
        .with_suffix(".json")
        .read_text()
    )
    assert sum(entry["lines"] for entry in sidecar["originals"]) == second.segment.lines == 13
    assert [entry["name"] for entry in sidecar["folded"]] == [first.segment.name]
    assert landed(0, 3) in lake.landed_names(DAY)


def test_late_segment_without_a_line_folds_in_and_loses_nothing(lake: Lake) -> None:
    before = write_day(lake)
    compact(lake, DAY)
    land(lake, "late.ndjson", b"")
    manifest(lake)
    compact(lake, DAY)
    assert lines(lake) == before
    assert len(names(lake)) == 3
    assert lake.is_manifest_current(DAY)
    assert "late.ndjson" in lake.landed_names(DAY)


def test_torn_segments_stay_out_of_it(lake: Lake) -> None:
    land(lake, "a.ndjson", data_of([flat(0)]))
    torn = land(lake, "torn.ndjson.zst", zstandard.compress(data_of([flat(1)] * 99))[:-3])
    manifest(lake)
    compact(lake, DAY)
    assert [path.name[:4] for path in lake.segments(DAY)] == ["comp", "torn"]
    assert lake.is_manifest_current(DAY)
    assert compact(lake, DAY) is None
    lake.segments(DAY)[0].unlink()
    manifest(lake)
    with pytest.raises(BadInputError, match="nothing to compact; torn segments stay"):
        compact(lake, DAY)
    assert torn.exists()


def test_importing_a_compacted_recording_again_changes_nothing(
    lake: Lake, tmp_path_factory: pytest.TempPathFactory
) -> None:
    recording = tmp_path_factory.mktemp("recording") / "btc.ndjson"
    recording.write_bytes(data_of([flat(0), flat(1)]))
    assert import_file(lake, recording, FIRST_DAY).is_new
    manifest(lake)
    compact(lake, DAY)
    before = names(lake)
    assert not import_file(lake, recording, FIRST_DAY).is_new
    assert names(lake) == before


def test_bars_and_all_after_them_are_the_same_bytes(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    land_simulation(lake, market(3))
    (whole,) = lake.segments(date(2026, 3, 1))
    content = list(Decoded(whole).lines())
    whole.unlink()
    for number in range(0, len(content), 500):
        path = whole.with_name(f"{number:06}.ndjson")
        path.write_bytes(b"".join(line + b"\n" for line in content[number : number + 500]))
    assert volatility("build", data=tmp_path).code == 0
    files = [path for stage in ("bars", "features", "labels") for path in lake.files(stage)]
    before = {path: path.read_bytes() for path in files}
    ticks = lake.file("ticks", date(2026, 3, 1)).read_bytes()

    answer = volatility("compact", "2026-03-01", data=tmp_path)

    assert answer.code == 0, answer.errors
    assert "segments of" in answer.out
    assert len(lake.segments(date(2026, 3, 1))) == 1
    assert volatility("build", data=tmp_path).code == 0
    assert lake.file("ticks", date(2026, 3, 1)).read_bytes() != ticks
    assert {path: path.read_bytes() for path in files} == before
    assert len(before) == 6


# --- refusals


def test_day_that_is_not_over_is_refused(lake: Lake) -> None:
    today = datetime.now(UTC).date()
    for day in (today, today + timedelta(days=1)):
        with pytest.raises(BadInputError, match="is not over yet"):
            compact(lake, day)
    with pytest.raises(BadInputError, match="no raw data"):
        compact(lake, DAY)
    assert list(lake.root.iterdir()) == []


def test_day_whose_manifest_is_not_current_is_refused(lake: Lake) -> None:
    write_day(lake)
    land(lake, "late.ndjson", data_of([flat(30)]))
    before = names(lake)
    with pytest.raises(RefusedError, match="`volatility build` first"):
        compact(lake, DAY)
    assert names(lake) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"\n", b" ", 1),
        lambda data: data.replace(b'"price": "2"', b'"price": "3"', 1),
    ],
    ids=["a line less", "another price"],
)
def test_segment_that_is_not_what_the_manifest_says_is_refused(
    lake: Lake, change: Callable[[bytes], bytes]
) -> None:
    write_day(lake)
    path = lake.raw_folder(DAY) / landed(0, 3)
    path.write_bytes(change(path.read_bytes()))
    assert lake.is_manifest_current(DAY)  # which goes by size
    before = names(lake)
    with pytest.raises(RefusedError, match="not the 4 lines that the manifest speaks of"):
        compact(lake, DAY)
    assert names(lake) == before


def test_stream_that_does_not_decode_to_itself_is_refused(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = write_day(lake)

    class Forgetful(Decoded):
        def __iter__(self) -> Iterator[bytes]:
            blocks = b"".join(super().__iter__())
            yield (
                blocks[:-2] + b"\n"
                if self.suffix == ".zst" and self.path.suffix == ".tmp"
                else blocks
            )

    monkeypatch.setattr(compaction, "Decoded", Forgetful)
    with pytest.raises(RefusedError, match="does not decode to what it was made from"):
        compact(lake, DAY)
    assert lines(lake) == before
    assert not any(name.startswith(("compacted", ".")) for name in names(lake))


def test_two_compactions_of_a_day_at_once_are_refused(lake: Lake) -> None:
    write_day(lake)
    with (
        compaction._alone(lake.raw_folder(DAY)),
        pytest.raises(RefusedError, match="another compaction is at work"),
    ):
        compact(lake, DAY)


def test_original_that_is_another_now_is_not_deleted(lake: Lake) -> None:
    write_day(lake)
    compact(lake, DAY)
    stray = land(lake, landed(0, 3), b"something else")
    assert stray not in lake.segments(DAY)
    with pytest.raises(RefusedError, match="give it another name"):
        compact(lake, DAY)
    assert stray.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "No day is named"),
        (("2999-01-01",), "is not over yet"),
        (("2026-01-01",), "no raw data"),
        (("--backup", "/tmp"), "--backup is for --expire"),
        (("--expire", "--backup", "/tmp"), "set VOLATILITY_RAW_KEEP_DAYS"),
    ],
)
def test_compact_of_what_cannot_be_says_why(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    assert_refused(volatility("compact", *arguments, data=tmp_path), said)
    assert list(tmp_path.iterdir()) == []


# --- kills


class Killed(BaseException):
    """SIGKILL: nothing that comes after it happens, a `finally` neither."""


@contextmanager
def killed_at(step: int, *, is_after: bool) -> Iterator[list[int]]:
    """Kills at the n-th change of the folder, before it or after it; counts the changes."""
    made = [0]

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def change_or_die(*arguments: Any, **named: Any) -> Any:
            made[0] += 1
            if made[0] > step or (made[0] == step and not is_after):
                raise Killed
            result = change(*arguments, **named)
            if made[0] == step:
                raise Killed
            return result

        return change_or_die

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "unlink", counted(Path.unlink))
        patched.setattr(compaction, "commit", counted(compaction.commit))
        patched.setattr(lakes, "commit", counted(lakes.commit))
        yield made


def write_two_compactions(lake: Lake) -> list[bytes]:
    """A compacted day with late segments."""
    write_day(lake)
    compact(lake, DAY)
    land(lake, landed(7, 8), data_of([flat(7), flat(8)]))
    land(lake, "late.ndjson", data_of([flat(30)]))
    manifest(lake)
    return lines(lake)


@pytest.mark.parametrize("write", [write_day, write_two_compactions])
def test_killed_at_any_step_it_loses_and_doubles_nothing_and_the_next_completes(
    tmp_path: Path, write: Callable[[Lake], list[bytes]]
) -> None:
    undisturbed = Lake(tmp_path / "undisturbed")
    write(undisturbed)
    with killed_at(10**6, is_after=False) as changes:
        compact(undisturbed, DAY)
    assert changes[0] >= 8
    for step in range(1, changes[0] + 1):
        for is_after in (False, True):
            lake = Lake(tmp_path / f"{step}{is_after}")
            before = write(lake)
            known = lake.landed_names(DAY)
            with pytest.raises(Killed), killed_at(step, is_after=is_after):
                compact(lake, DAY)
            assert lines(lake) == before, (step, is_after)
            assert known <= lake.landed_names(DAY)

            compact(lake, DAY)

            assert lines(lake) == before
            assert lake.is_manifest_current(DAY)
            left = [name for name in names(lake) if not name.endswith(".tmp")]
            assert left == names(undisturbed)
            assert lake.manifest(DAY) == undisturbed.manifest(DAY)


@pytest.mark.parametrize("step", range(1, 8))
def test_killed_and_then_built_it_is_complete(lake: Lake, step: int) -> None:
    write_day(lake)
    build(lake)
    before = tick_rows(lake)
    with pytest.raises(Killed), killed_at(step, is_after=True):
        compact(lake, DAY)
    build(lake)
    assert tick_rows(lake) == before
    compact(lake, DAY)
    build(lake)
    assert tick_rows(lake) == before
    assert len(lake.segments(DAY)) == 1


def test_killed_before_its_rename_and_then_late_segments_leaves_no_old_sidecar(lake: Lake) -> None:
    write_day(lake)
    with pytest.raises(Killed), killed_at(1, is_after=True):
        compact(lake, DAY)
    assert len([name for name in names(lake) if name.startswith("compacted")]) == 1
    land(lake, "late.ndjson", data_of([flat(30)]))
    manifest(lake)
    before = lines(lake)
    compact(lake, DAY)
    assert lines(lake) == before
    assert len(names(lake)) == 3


# --- retention


def back_up(lake: Lake, folder: Path) -> Path:
    """Copies a day's raw folder as a person would."""
    shutil.copytree(lake.raw_folder(DAY), folder / lake.raw_folder(DAY).name)
    return folder


def write_expired(lake: Lake, backup: Path) -> list[dict[str, Any]]:
    """A day that was compacted, built, backed up and removed; returns its ticks."""
    write_day(lake)
    manifest(lake)
    compact(lake, DAY)
    build(lake)
    assert expire(Warehouse(lake, threads=1), DAY, back_up(lake, backup)) > 0
    return rows(lake, "ticks")


def test_expired_day_counts_as_current_and_says_where_it_went(lake: Lake, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    write_expired(lake, backup)
    assert lake.segments(DAY) == []
    assert len(names(lake)) == 2
    moved = (lake.manifest(DAY) or {})["moved"]
    assert moved["to"] == str(backup / "date=2026-04-04")
    assert datetime.fromisoformat(moved["at"]) <= datetime.now(UTC)
    known = Warehouse(lake, threads=1)
    assert known.is_current("raw", DAY)
    assert known.is_current("ticks", DAY)
    assert landed(0, 3) in lake.landed_names(DAY)


def test_expired_days_ticks_outlive_new_code_and_a_new_version_of_the_manifest(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_expired(lake, tmp_path / "backup")
    monkeypatch.setattr(warehouse, "code_hash", lambda stage: f"new {stage}")
    monkeypatch.setattr(lakes, "MANIFEST_VERSION", 99)
    known = Warehouse(lake, threads=1)
    assert known.is_current("raw", DAY)
    assert known.is_current("ticks", DAY)
    assert not known.is_current("bars", DAY)


def test_expired_day_is_not_made_anew_until_its_files_are_back(lake: Lake, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    ticks = write_expired(lake, backup)
    made = Ingest(lake, Warehouse(lake, threads=1))
    for make in (made.write_manifest, made.build_ticks, lambda day: compact(lake, day)):
        with pytest.raises(RefusedError, match=f"copy {backup}/.*zst back to {lake.root}/raw/"):
            make(DAY)
    assert rows(lake, "ticks") == ticks

    for path in (backup / "date=2026-04-04").glob("*.zst"):
        shutil.copy(path, lake.raw_folder(DAY))

    assert lake.moved(DAY) == []
    assert made.warehouse.is_current("raw", DAY)
    assert made.warehouse.is_current("ticks", DAY)
    build(lake)
    assert rows(lake, "ticks") == ticks
    assert "moved" not in (lake.manifest(DAY) or {})


def test_half_a_file_copied_back_is_not_back(lake: Lake, tmp_path: Path) -> None:
    write_expired(lake, tmp_path / "backup")
    (copy,) = (tmp_path / "backup").rglob("*.zst")
    (lake.raw_folder(DAY) / copy.name).write_bytes(copy.read_bytes()[:-1])
    with pytest.raises(RefusedError, match=r"copy .* back"):
        build(lake)


def test_late_segment_of_an_expired_day_empties_nothing_and_is_refused_loudly(
    lake: Lake, tmp_path: Path
) -> None:
    ticks = write_expired(lake, tmp_path / "backup")
    land(lake, "late.ndjson", data_of([flat(30)]))
    assert not Warehouse(lake).is_current("raw", DAY)
    with pytest.raises(RefusedError, match=r"copy .* back"):
        build(lake)
    assert rows(lake, "ticks") == ticks


def test_original_that_lands_again_on_an_expired_day_is_not_seen(
    lake: Lake, tmp_path: Path
) -> None:
    write_expired(lake, tmp_path / "backup")
    land(lake, landed(0, 3), data_of([flat(0)]))
    assert lake.segments(DAY) == []
    assert Warehouse(lake).is_current("raw", DAY)


def test_nothing_is_removed_without_build_compaction_and_equal_copy(
    lake: Lake, tmp_path: Path
) -> None:
    known = Warehouse(lake, threads=1)
    backup = tmp_path / "backup"
    write_day(lake)
    with pytest.raises(RefusedError, match="`volatility build` first"):
        expire(known, DAY, backup)
    build(lake)
    with pytest.raises(RefusedError, match="`volatility compact 2026-04-04` first"):
        expire(known, DAY, backup)
    compact(lake, DAY)
    with pytest.raises(RefusedError, match="`volatility build` first"):
        expire(known, DAY, backup)
    build(lake)
    with pytest.raises(RefusedError, match="no equal copy at"):
        expire(known, DAY, backup)
    back_up(lake, backup)
    (copy,) = backup.rglob("*.zst")
    content = copy.read_bytes()
    copy.write_bytes(content[:-1] + b"x")
    with pytest.raises(RefusedError, match="no equal copy at"):
        expire(known, DAY, backup)
    with pytest.raises(RefusedError, match="the very file"):
        expire(known, DAY, lake.root / "raw")
    assert lake.is_manifest_current(DAY)
    assert len(lake.segments(DAY)) == 1
    copy.write_bytes(content)
    assert expire(known, DAY, backup) == len(content)


@pytest.mark.parametrize("step", range(1, 3))
def test_killed_while_expiring_it_is_current_all_along(
    lake: Lake, tmp_path: Path, step: int
) -> None:
    write_day(lake)
    compact(lake, DAY)
    build(lake)
    back_up(lake, tmp_path / "backup")
    known = Warehouse(lake, threads=1)
    with pytest.raises(Killed), killed_at(step, is_after=True):
        expire(known, DAY, tmp_path / "backup")
    assert known.is_current("raw", DAY)
    assert known.is_current("ticks", DAY)
    expire(known, DAY, tmp_path / "backup")
    assert lake.segments(DAY) == []
    assert lake.moved(DAY) != []


def test_commands_expire_old_days_and_refuse_to_force_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, backup = tmp_path / "data", tmp_path / "backup"
    lake = Lake(root)
    land_simulation(lake, market(0.2))
    monkeypatch.setenv("VOLATILITY_RAW_KEEP_DAYS", "1")
    day = "2026-03-01"
    volatility("build", data=root)
    expiry = ("compact", "--expire", "--backup", backup)
    assert_refused(volatility(*expiry, data=root), str(backup), "no folder")
    backup.mkdir()
    answer = volatility(*expiry, data=root)
    assert answer.code == 1
    assert f"{day}: kept; not compacted; `volatility compact {day}` first." in answer.out
    assert_refused(
        volatility(*expiry, "2026-02-01", data=root), "2026-02-01", "VOLATILITY_RAW_KEEP_DAYS=1"
    )
    assert volatility("compact", day, data=root).code == 0
    volatility("build", data=root)
    shutil.copytree(lake.raw_folder(date(2026, 3, 1)), backup / f"date={day}")
    ticks = lake.file("ticks", date(2026, 3, 1)).read_bytes()

    answer = volatility(*expiry, data=root)

    assert answer.code == 0, answer.errors
    assert f"{day}: removed " in answer.out
    assert volatility("build", data=root).out == "Nothing has changed since the last build.\n"
    answer = volatility("build", "--from", day, "--to", day, data=root)
    assert answer.code == 1
    assert f"copy {backup}/date={day}/compacted-" in answer.errors
    assert lake.file("ticks", date(2026, 3, 1)).read_bytes() == ticks
    assert "moved" in volatility("status", data=root).out
    for path in (backup / f"date={day}").glob("*.zst"):
        shutil.copy(path, lake.raw_folder(date(2026, 3, 1)))
    assert volatility("build", "--from", day, "--to", day, data=root).code == 0
    assert lake.file("ticks", date(2026, 3, 1)).read_bytes() == ticks
