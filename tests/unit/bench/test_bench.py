"""The parts of bench/ that need neither root nor a quiet machine."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from bench import baseline, cost, counted, loss, outputs, page, results, startup, threads, untraced
from bench.figures import Spread, ratios, spread
from bench.plot import draw
from bench.storm import PAGE, Round, Storm, StormError, build

FACTS = {
    "date": "2026-01-02 03:04 UTC",
    "kernel": "6.18.0",
    "machine": "a machine",
    "load": 0.5,
    "versions": {"perf": "6.1", "bpftrace": "0.17"},
}

PERF_SCRIPT = """\
storm 283 409.491496: minor-faults:     7f54bd2f3000 [unknown]   7f54bd2f9b26 clock_gettime       0
storm 283 409.491542: major-faults:     7f54bd2f0000 [unknown]   5582dd70a6a8 storm       19aecb000
"""
PERF_TRACE = """\
     0.000 ( 0.000 ms): minfault [clock_gettime+0x0] => /usr/lib/libc.so.6@0xcf420 (d.)
     0.000 ( 0.000 ms): minfault [__vdso_clock_gettime+0x36] => 0x7fe9ea13c000 (?.)
LOST 13 events!
18446744073709.551 ( 0.000 ms): majfault [storm+0xb8] => //anon@0x7fe9ea139000 (d.)
     0.100 ( 0.004 ms): storm/283 munmap(addr: 0x7fe9ea139000, len: 4096) = 0
"""
BPFTRACE = """\
Attaching 2 probes...
40961491496 283 storm 7f54bd2f3000 6
40961491999 283 storm 7f54bd2f4000 6
Lost 12 events
"""
CSV = """\
number,time_ns,pid,space,tid,comm,cpu,address,access
1,500,283,1,283,storm,0,0x7f3e88ea5b70,exec
2,400,283,1,283,storm,0,0x7f3e88ebee06,write
"""


def _file(folder: Path, text: str) -> Path:
    path = folder / "out"
    path.write_text(text)
    return path


def test_faults_are_found_in_what_each_tool_writes(tmp_path: Path) -> None:
    assert list(outputs.perf_script_addresses(_file(tmp_path, PERF_SCRIPT))) == [
        0x7F54BD2F3000,
        0x7F54BD2F0000,
    ]
    assert list(outputs.perf_trace_addresses(_file(tmp_path, PERF_TRACE))) == [
        0xCF420,
        0x7FE9EA13C000,
        0x7FE9EA139000,
    ]
    assert list(outputs.line_addresses(_file(tmp_path, BPFTRACE), 3)) == [
        0x7F54BD2F3000,
        0x7F54BD2F4000,
    ]
    assert outputs.first_time(_file(tmp_path, BPFTRACE)) == 40961491496
    assert list(outputs.csv_addresses(_file(tmp_path, CSV))) == [0x7F3E88EA5B70, 0x7F3E88EBEE06]
    assert outputs.first_csv_time(_file(tmp_path, CSV)) == 400


def test_where_nothing_was_recorded_nothing_is_found(tmp_path: Path) -> None:
    empty = _file(tmp_path, "")
    assert list(outputs.perf_script_addresses(empty)) == []
    assert outputs.first_time(empty) == 0
    assert outputs.first_csv_time(_file(tmp_path, CSV.splitlines()[0] + "\n")) == 0


def test_only_faults_on_the_storms_pages_count() -> None:
    rounds = [Round(1, 1, 2, 0x10000), Round(1, 1, 2, 0x10000), Round(1, 1, 2, 0x90000)]
    seen = [0x10000, 0x10000 + PAGE, 0x10000 + 2 * PAGE, 0x90010, 0x5000, 0x10000]
    assert outputs.recorded(seen, rounds, pages=2) == 4
    assert outputs.recorded(seen, rounds[:1], pages=2) == 2  # one page twice in one round
    assert outputs.recorded([], rounds, pages=2) == 0


def test_a_spread_is_the_median_between_the_quartiles() -> None:
    assert spread([5, 1, 3, 2, 4]) == Spread(3, 2, 4)
    assert spread([1, 2]) == Spread(1.5, 1.25, 1.75)
    assert spread([7]).text(0, " ms") == "7 ms (7–7)"
    assert spread([1.404, 1.444, 1.42]).text(2, "×") == "1.42× (1.41–1.43)"
    with pytest.raises(ValueError, match="no figures"):
        spread([])


def test_ratios_are_by_the_same_round() -> None:
    assert ratios([2.0, 6.0], [1.0, 2.0]) == [2.0, 3.0]
    with pytest.raises(ValueError):
        ratios([1.0], [1.0, 2.0])


def _cells(ns: float, **more: float) -> list[dict[str, float]]:
    return [{"cpu_ns": ns + n, "wall_ns": ns + n, "faults": 1000, **more} for n in range(3)]


def cost_data() -> dict[str, Any]:
    titles = {"untraced": "untraced", "perf-record": "perf record", "bpftrace": "bpftrace"}
    titles |= {"empty": "an empty program", "perf": "pagefault-trace --csv --probe perf"}
    return {
        "circumstances": FACTS,
        "pages": 500,
        "bursts": 2,
        "titles": {**titles, "bcc": "BCC script"},
        "cells": {
            "untraced": _cells(1000),
            "perf-record": _cells(1700, recorded=1000, after_s=0.004),
            "bpftrace": _cells(9000, recorded=900),
            "empty": _cells(1100),
            "perf": _cells(1380, recorded=1000),
        },
        "why_not": {"bcc": "bcc is not installed"},
        "refused": {"kprobe": "kprobe: no kprobes here"},
    }


def test_the_comparison_shows_ratios_loss_and_what_could_not_run() -> None:
    text = cost.render(cost_data())
    assert "| untraced | 1.00 µs | 1 | 1.00 µs | 1 | |" in text
    assert "| bpftrace | 9.00 µs | **8.99× (8.99–9.00)** | 9.00 µs | 8.99× (8.99–9.00)" in text
    assert "| 300 (10.0%) |" in text
    assert "| records none |" in text
    assert "| BCC script | bcc is not installed | | | | |" in text
    assert "| pagefault-trace --probe kprobe | kprobe: no kprobes here | | | | |" in text
    assert "takes another 4.0 µs a fault" in text
    assert "| pagefault-trace --csv --probe perf | 1.38 µs | **1.38× (1.38–1.38)** |" in text


def test_the_picture_is_the_same_for_the_same_figures() -> None:
    first = draw(cost_data())
    assert first.startswith(b"<?xml")
    assert first == draw(cost_data())


def test_a_storm_obeys_pokes_paces_itself_and_runs_threads() -> None:
    build()
    with Storm(30, 2, threads=2, rate=10_000) as storm:
        poked: list[int] = []

        def poke() -> bool:
            if len(poked) == 3:
                return True
            poked.append(len(poked))
            return False

        storm.poke_until(poke, 5000)
        began = time.monotonic()
        storm.go()
        rounds = storm.rounds()
        took = time.monotonic() - began
    assert len(rounds) == 4
    assert all(30 <= each.faults < 40 for each in rounds)
    assert took >= 0.005  # 60 faults a thread, ten each millisecond
    with Storm(10, 1) as storm:
        storm.close()
        with pytest.raises((StormError, OSError, ValueError)):
            storm.poke_until(lambda: False)


def test_the_limit_is_found_by_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    def storm(faults: int, threads: int, rate: int) -> dict[str, Any]:
        return {"rate": rate, "lost": max(0, rate - 300_000)}

    monkeypatch.setattr(loss, "_storm", storm)
    found = loss.find_limit(1.0, 6, 800_000.0)
    assert found["good"] <= 300_000 < found["bad"]
    assert found["bad"] - found["good"] == 800_000 / 2**6


def test_drops_are_shown_as_counted() -> None:
    each = {"faults": 900, "rows": 900, "rate": 500e3, "traced": 950, "lost": 0, "missed": 0}
    each |= {"kernel": 950, "balanced": True}
    lossy = {**each, "traced": 900, "lost": 50}
    tries = [{"lost": 1, "rate": 4e5}, {"lost": 0, "rate": 3e5}, {"lost": 9, "rate": 5e5}]
    rate = {"seconds": 8.0, "tries": tries}
    text = loss.render({"one": each, "two": lossy, "rate": rate})
    assert "| 500,000 | 950 | 950 | **0** (0.0%) | 0 | = kernel |" in text
    assert "| 500,000 | 950 | 900 | **50** (5.3%) | 0 | = kernel |" in text
    assert "start at about **350,000 faults a second**" in text
    assert "none was dropped at 300,000, some at 400,000" in text
    for part, said in (
        (tries[1:2], "No events dropped at up to 300,000"),
        (tries[:1], "even at 400,000"),
    ):
        assert said in loss.render({"one": each, "two": each, "rate": {**rate, "tries": part}})


def test_starts_show_their_parts() -> None:
    parts = {"Python and options": 60.0, "the probe": 80.0, "  load and attach": 70.0}
    ours = [{"ms": 400.0, "parts": parts}, {"ms": 420.0, "parts": parts}]
    data = {
        "starts": {"pagefault-trace": ours, "bpftrace": [{"ms": 600.0, "parts": {}}] * 2},
        "why_not": {"BCC script, a kernel's headers": "none are installed"},
    }
    text = startup.render(data)
    assert "| pagefault-trace | **410 ms (405–415)** |" in text
    assert "| BCC script, a kernel's headers | none are installed |" in text
    assert "| &nbsp;&nbsp;load and attach | 70 |" in text


def test_headers_of_the_running_kernel_are_preferred(tmp_path: Path) -> None:
    assert startup.real_headers(tmp_path, "6.1")[0] == ""
    for name in ("5.10", "6.1", "6.12"):
        (tmp_path / name).mkdir()
    (tmp_path / "5.10" / "build").mkdir()
    assert startup.real_headers(tmp_path, "6.1") == ("5.10", "")
    (tmp_path / "6.1" / "build").mkdir()
    assert startup.real_headers(tmp_path, "6.1") == ("6.1", "")


def test_others_and_threads_are_by_their_own_untraced() -> None:
    beside = {"titles": {"perf": "ours"}, "cells": {"nothing": _cells(1000), "perf": _cells(1100)}}
    assert "| ours | 1.10 µs | 1.10× (1.10–1.10) |" in untraced.render(
        {"pages": 5, "bursts": 1, **beside}
    )
    cells = {"untraced": _cells(1000), "perf": _cells(1500, recorded=990)}
    data = {"pages": 5, "bursts": 1, "titles": {"perf": "ours"}, "cells": {"2": cells}}
    assert "| 2 | 1.00 µs | 1.50 µs, 1.50× (1.50–1.50) | 30 |" in threads.render(data)


def test_instructions_are_the_committed_ones_and_others_from_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="make test-kernels"):
        counted.measure(tmp_path)
    costs = [
        {"probe": "fentry", "target": 8000.3, "bystander": 7300.0, "floor": 7850.0},
        {"probe": "perf", "target": 9000.0, "bystander": 7400.0, "floor": 7900.0},
    ]
    (tmp_path / "6.12-bench").mkdir()
    (tmp_path / "6.12-bench" / "instructions.json").write_text(
        json.dumps({"untraced": 7250.0, "costs": costs})
    )
    key = "6.12.1+deb13-amd64, bcc 0.26.0, QEMU 7.2.22"
    monkeypatch.setattr(baseline, "load", lambda: {key: {"fentry": 750.3, "perf": 999.0}})
    text = counted.render(counted.measure(tmp_path))
    assert f"| {key} | fentry | **750** | 600 | 1.25× | 7,250 | 50 |" in text
    assert "|  | perf | **999** |  |  |  |  |" in text  # that one was another run


def test_results_are_kept_with_where_and_when(tmp_path: Path) -> None:
    results.save("cost", {"a": 1}, tmp_path)
    kept = results.load("cost", tmp_path)
    assert kept is not None
    assert kept["a"] == 1
    assert {"date", "kernel", "machine", "versions"} <= set(kept["circumstances"])
    assert results.load("loss", tmp_path) is None


def test_the_page_says_what_was_not_measured() -> None:
    text = page.page({"cost": cost_data()})
    assert "![What tracing costs a page fault](images/performance.svg)" in text
    assert (
        "*2026-01-02 03:04 UTC; Linux 6.18.0; a machine, load 0.5; perf 6.1, bpftrace 0.17.*"
        in text
    )
    assert "Not measured yet: `python -m bench startup`." in text


def test_the_page_in_docs_is_what_the_kept_results_say() -> None:
    """`python -m bench --render` writes it."""
    assert page.PAGE.read_text() == page.page(page.load_all())
