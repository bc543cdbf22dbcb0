"""pagefault-report export: each format against its own description."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.outputs_data import START, rows
from tests.unit.report_data import MARKUP, MS, demo, hostile, lossy, mixed, written
from tracer.common.errors import Exit
from tracer.common.text import printable
from tracer.model.rows import UNKNOWN_LATENCY
from tracer.reporting import cli
from tracer.reporting.analysis.stacks import stacks, weights
from tracer.reporting.exports import protobuf
from tracer.reporting.exports.chrome import chrome
from tracer.reporting.exports.flame import folded, speedscope
from tracer.reporting.exports.perfetto import perfetto
from tracer.reporting.exports.tracks import tracks
from tracer.reporting.reading.run import Run, load

from google.protobuf.message import Message  # isort: skip  (report_data skips where it is missing)
from google.protobuf.unknown_fields import UnknownFieldSet  # isort: skip
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent  # isort: skip

# -- protobuf's wire format ------------------------------------------------------


@given(st.integers(0, (1 << 64) - 1))
def test_wide_varints_are_read_as_what_they_are(value: int) -> None:
    wide = protobuf.numbers(8, np.array([value, 0], np.uint64), 10)
    event = protobuf.block(1, wide[0].tobytes())
    trace = Trace()
    trace.ParseFromString(event)
    assert trace.packet[0].timestamp == value
    assert protobuf.number(8, value) == trace.packet[0].SerializeToString()


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(OverflowError):
        protobuf.numbers(1, np.array([128], np.uint64), 1)


# -- perfetto ---------------------------------------------------------------------


def unknown(message: Message) -> int:
    """Fields that the schema does not have, anywhere in a message."""
    count = len(UnknownFieldSet(message))
    for field, value in message.ListFields():
        if field.message_type:
            inner = [value] if isinstance(value, Message) else list(value)
            count += sum(unknown(each) for each in inner)
    return count


def parsed(run: Run) -> Any:
    trace = Trace()
    trace.ParseFromString(b"".join(perfetto(run)))
    assert unknown(trace) == 0
    assert all(packet.trusted_packet_sequence_id == 1 for packet in trace.packet)
    return trace


def slices(trace: Any) -> list[tuple[int, str, int, int, dict[str, object]]]:
    """(track, kind, begin, end, annotations), by pairing begins with ends as a viewer does."""
    names: dict[int, str] = {}
    labels: dict[int, str] = {}
    words: dict[int, str] = {}
    open_: dict[int, list[Any]] = {}
    found = []
    for packet in trace.packet:
        for table, entries in (
            (names, packet.interned_data.event_names),
            (labels, packet.interned_data.debug_annotation_names),
        ):
            table.update({entry.iid: entry.name for entry in entries})
        for entry in packet.interned_data.debug_annotation_string_values:
            words[entry.iid] = entry.str.decode()
        event = packet.track_event
        if event.type == TrackEvent.TYPE_SLICE_BEGIN:
            open_.setdefault(event.track_uuid, []).append(packet)
        elif event.type == TrackEvent.TYPE_SLICE_END:
            begun = open_[event.track_uuid].pop()
            start = begun.track_event
            said = {
                labels[each.name_iid]: words[each.string_value_iid]
                if each.HasField("string_value_iid")
                else each.pointer_value or each.uint_value
                for each in start.debug_annotations
            }
            name = names[start.name_iid]
            found.append((start.track_uuid, name, begun.timestamp, packet.timestamp, said))
    assert not any(open_.values())
    return found


def test_perfetto_has_a_track_a_thread_and_a_slice_a_fault(tmp_path: Path) -> None:
    run = load(mixed(tmp_path / "t.csv"))
    trace = parsed(run)
    found = slices(trace)
    assert len(found) == 10
    threads = {
        packet.track_descriptor.uuid: packet.track_descriptor.thread
        for packet in trace.packet
        if packet.track_descriptor.HasField("thread")
    }
    assert [(t.pid, t.tid, t.thread_name) for t in threads.values()] == [
        *((1, 1, "worker"), (1, 2, "other"))
    ]
    first = found[0]
    assert threads[first[0]].tid == 1
    assert first[1:4] == ("anon", START - 1000, START)
    assert first[4] == {
        "address": 0x7F03141A2000, "pages": 1, "region": "[anon]", "access": "write",
        "cause": "user",
    }  # fmt: skip
    assert [name for _, name, *_ in found].count("file") == 3
    assert {end - begin for _, name, begin, end, _ in found if name == "file"} == {
        *(20_000, 30_000, 40_000)
    }


def test_perfetto_says_what_it_was_made_from(tmp_path: Path) -> None:
    trace = parsed(load(demo(tmp_path / "t.csv")))
    said = {
        each.name: each.string_value
        for packet in trace.packet
        for each in packet.track_event.debug_annotations
        if each.name
    }
    assert said["command"] == "multimap --auto"
    assert said["origin"] == "host host, kernel 6.12.1, probe perf"
    assert said["counts"].startswith("5 faults, 0 lost; 1.235 s")
    clocks = {c.clock_id: c.timestamp for p in trace.packet for c in p.clock_snapshot.clocks}
    assert clocks == {6: START, 3: START, 1: 1_700_000_000_000_000_000}


def test_perfettos_counter_is_what_is_mapped(tmp_path: Path) -> None:
    trace = parsed(load(lossy(tmp_path / "t.csv")))
    values = [
        (packet.timestamp - START, packet.track_event.counter_value // 4096)
        for packet in trace.packet
        if packet.track_event.type == TrackEvent.TYPE_COUNTER
    ]
    assert (4 * MS, 4) in values
    assert values[-1] == (8 * MS, 2)


def test_a_fault_without_an_entry_is_an_instant(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", rows(3, latency_ns=[5, UNKNOWN_LATENCY, 7]))
    run = load(path)
    trace = parsed(run)
    instants = [
        packet.timestamp
        for packet in trace.packet
        if packet.track_event.type == TrackEvent.TYPE_INSTANT and packet.track_event.name_iid
    ]
    assert instants == [START + MS]
    assert len(slices(trace)) == 2
    events = json.loads(b"".join(chrome(run)))["traceEvents"]
    assert [event["ph"] for event in events if "ts" in event and event["ph"] != "C"] == [
        *("X", "i", "X")
    ]


@given(st.lists(st.tuples(st.integers(3000, 8000), st.integers(0, 3000)), min_size=1, max_size=60))
def test_slices_of_a_thread_never_overlap(faults: list[tuple[int, int]]) -> None:
    import tempfile

    time_ns, latency = zip(*sorted(faults), strict=True)
    made = rows(len(faults), time_ns=time_ns, latency_ns=latency, tid=np.arange(len(faults)) % 3)
    with tempfile.TemporaryDirectory() as folder:
        found = tracks(load(written(Path(folder) / "t.csv", made, meta=False)))
    assert sorted(found.row.tolist()) == list(range(len(faults)))
    for track in range(len(found.tracks)):
        mine = found.track == track
        assert (found.begin_ns[mine] <= found.end_ns[mine]).all()
        assert (found.begin_ns[mine][1:] >= found.end_ns[mine][:-1]).all()


# -- chrome -----------------------------------------------------------------------


def test_chrome_has_the_same(tmp_path: Path) -> None:
    run = load(mixed(tmp_path / "t.csv"))
    content = json.loads(b"".join(chrome(run)))
    assert content["otherData"]["command"] == "multimap --auto"
    events = content["traceEvents"]
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert names == {(1, 1): "worker", (1, 2): "other"}
    faults = [event for event in events if event["ph"] == "X"]
    assert len(faults) == 10
    assert faults[0] == {
        "ph": "X", "dur": 1.0, "name": "anon", "cat": "minor", "pid": 1, "tid": 1, "ts": -1.0,
        "args": {"address": "0x7f03141a2000", "region": "[anon]", "access": "write",
                 "cause": "user", "pages": 1},
    }  # fmt: skip
    assert [event["cat"] for event in faults].count("major") == 1
    assert max(e["args"]["bytes"] for e in events if e["ph"] == "C") == 54 * 4096


# -- stacks -----------------------------------------------------------------------


def test_folded_stacks(tmp_path: Path) -> None:
    run = load(mixed(tmp_path / "t.csv"))
    assert b"".join(folded(run)).decode() == (
        "other;/usr/lib/libx.so;file 196608\nworker;[anon];anon 24576\n"
    )
    assert b"".join(folded(run, "faults")).decode() == (
        "other;/usr/lib/libx.so;file 3\nworker;[anon];anon 6\nworker;[heap];reuse 1\n"
    )
    times = [int(line.rsplit(b" ")[-1]) for line in folded(run, "nanoseconds")]
    assert times == [90_000, 21_000, 500]


def test_symbols_are_frames(tmp_path: Path) -> None:
    path = Path(written(tmp_path / "t.csv", rows(2, comm=1, region=1), meta=False))
    text = path.read_text().replace(",0x401000,,", ",0x401000,main+0x1f,", 1)
    path.write_text(text)
    found = stacks(load(str(path)).faults)
    assert {found.frames[code] for code in found.codes.tolist()} == {
        ("multimap", "[anon]", "anon"),
        ("multimap", "main", "[anon]", "anon"),
    }


def test_speedscope_weighs_what_it_says(tmp_path: Path) -> None:
    run = load(mixed(tmp_path / "t.csv"))
    content = json.loads(b"".join(speedscope(run)))
    assert content["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    frames = content["shared"]["frames"]
    assert all(list(frame) == ["name"] for frame in frames)
    for profile, (name, values) in zip(
        content["profiles"], weights(run.faults).items(), strict=True
    ):
        assert profile["type"] == "sampled"
        assert profile["unit"] in ("none", "bytes", "nanoseconds")
        assert len(profile["samples"]) == len(profile["weights"])
        assert profile["endValue"] - profile["startValue"] == sum(profile["weights"])
        assert sum(profile["weights"]) == int(values.sum()), name
        assert all(0 <= at < len(frames) for sample in profile["samples"] for at in sample)


# -- all of them ------------------------------------------------------------------


def test_hostile_names_stay_names(tmp_path: Path) -> None:
    run = load(hostile(tmp_path / "t.csv"))
    events = json.loads(b"".join(chrome(run)))["traceEvents"]
    regions = {event["args"]["region"] for event in events if event["ph"] == "X"}
    assert {printable(name) for name in MARKUP} <= regions
    said = {each["region"] for *_, each in slices(parsed(run))}
    assert {printable(name) for name in MARKUP} <= said
    lines = b"".join(folded(run)).decode().splitlines()
    assert len(lines) == len(run.faults)
    assert all(line.count(";") == 2 for line in lines)
    assert json.loads(b"".join(speedscope(run)))


@pytest.mark.parametrize("form", ["perfetto", "chrome", "folded", "speedscope"])
def test_a_run_without_a_fault(tmp_path: Path, form: str) -> None:
    path = written(tmp_path / "t.csv", rows(0))
    assert cli.run(["export", f"--{form}", path]) == 0
    (made,) = set(tmp_path.glob("t.*")) - {Path(path), Path(path + ".meta.json")}
    if form == "perfetto":
        parsed(load(path))
    elif form != "folded":
        json.loads(made.read_text())


def test_one_of_the_formats_must_be_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["export", demo(tmp_path / "t.csv")]) == Exit.USAGE
    assert "give one of --perfetto" in capsys.readouterr().err
