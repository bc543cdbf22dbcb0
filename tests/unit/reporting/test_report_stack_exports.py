"""Call stacks in what a report exports: folded, speedscope, Perfetto, Chrome."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.report_data import LIBC, MARKUP, hostile_stacks, stacked
from tracer.common.text import printable
from tracer.reporting.exports.chrome import chrome
from tracer.reporting.exports.flame import folded, speedscope
from tracer.reporting.exports.perfetto import perfetto
from tracer.reporting.reading.run import load

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace  # isort: skip


def test_folded_stacks_are_call_stacks(tmp_path: Path) -> None:
    lines = b"".join(folded(load(stacked(tmp_path / "t.csv")))).decode().splitlines()
    start = "_start;__libc_start_main;main"
    assert lines == [
        f"other;{start};fill 8192",
        "worker;(no frame pointers);memcpy 4096",
        "worker;(no stack) 4096",
        f"worker;(truncated);{';'.join(['recurse'] * 7)} 4096",
        f"worker;{start};app+0x1f30 4096",
        f"worker;{start};fill 4096",
        f"worker;{start};fill;memset 8192",
        f"worker;{start};read;vfs_read_[k];copy_to_user_[k] 65536",
    ]


def test_speedscope_has_files_and_lines(tmp_path: Path) -> None:
    content = json.loads(b"".join(speedscope(load(stacked(tmp_path / "t.csv")))))
    frames = content["shared"]["frames"]
    assert {"name": "fill", "file": "app.c", "line": 12} in frames
    assert {"name": "fill", "file": "app.c", "line": 14} in frames
    assert {"name": "memset", "file": LIBC} in frames
    assert {"name": "copy_to_user_[k]", "file": "[kernel]"} in frames
    memory = content["profiles"][0]
    assert memory["endValue"] == sum(memory["weights"]) == 25 * 4096
    heaviest = memory["samples"][int(np.argmax(memory["weights"]))]
    assert [frames[at]["name"] for at in heaviest] == [
        *("worker", "_start", "__libc_start_main", "main"),
        *("read", "vfs_read_[k]", "copy_to_user_[k]"),
    ]


def test_perfetto_has_the_call_stack_of_each_slice(tmp_path: Path) -> None:
    trace = Trace()
    trace.ParseFromString(b"".join(perfetto(load(stacked(tmp_path / "t.csv")))))
    known: dict[str, dict[int, Any]] = {}
    for packet in trace.packet:
        interned = packet.interned_data
        for name in (
            *("function_names", "mapping_paths", "source_paths", "mappings", "frames"),
            *("callstacks", "debug_annotation_string_values", "debug_annotation_names"),
        ):
            known.setdefault(name, {}).update({each.iid: each for each in getattr(interned, name)})
    found = []
    for packet in trace.packet:
        event = packet.track_event
        if not event.callstack_iid:
            continue
        frames = [known["frames"][at] for at in known["callstacks"][event.callstack_iid].frame_ids]
        said = {
            known["debug_annotation_names"][each.name_iid].name: each.string_value_iid
            for each in event.debug_annotations
        }
        brief = known["debug_annotation_string_values"][said["stack"]].str.decode()
        functions = [known["function_names"][each.function_name_id].str.decode() for each in frames]
        assert brief.split(" ← ")[0] == functions[-1]
        for each in frames:
            (path,) = known["mappings"][each.mapping_id].path_string_ids
            assert known["mapping_paths"][path].str
        found.append((functions, event.callstack_weight, frames[-1]))
    assert len(found) == 10
    assert sum(weight for _, weight, _ in found) == 25 * 4096
    assert found[0][0] == ["_start", "__libc_start_main", "main", "fill", "memset"]
    source = known["source_paths"][found[2][2].source_path_iid].str
    assert (source, found[2][2].line_number) == (b"app.c", 14)
    assert found[7][0] == ["(no stack)"]


def test_chrome_has_them_too(tmp_path: Path) -> None:
    content = json.loads(b"".join(chrome(load(stacked(tmp_path / "t.csv")))))
    frames = content["stackFrames"]

    def names(number: object) -> list[str]:
        each = frames[str(number)]
        return [*(names(each["parent"]) if "parent" in each else []), each["name"]]

    faults = [event for event in content["traceEvents"] if event["ph"] == "X"]
    assert names(faults[0]["sf"]) == ["_start", "__libc_start_main", "main", "fill", "memset"]
    assert names(faults[7]["sf"]) == ["(no stack)"]


@pytest.mark.parametrize("weight", ["bytes", "faults", "nanoseconds"])
def test_hostile_names_stay_names(tmp_path: Path, weight: str) -> None:
    run = load(hostile_stacks(tmp_path / "t.csv"))
    lines = b"".join(folded(run, weight)).decode().splitlines()
    assert len(lines) == len(run.faults)
    assert {line.count(";") for line in lines} == {2, 3}
    shown = {frame["name"] for frame in json.loads(b"".join(speedscope(run)))["shared"]["frames"]}
    assert {printable(name) for name in MARKUP} <= shown
    assert json.loads(b"".join(chrome(run)))
    trace = Trace()
    trace.ParseFromString(b"".join(perfetto(run)))
