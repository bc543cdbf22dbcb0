"""Every way by which a record is not written reaches a counter, and every counter is shown."""

import re
from pathlib import Path

import pytest

from tracer.wire.shared import COUNTER_NAMES

ROOT = Path(__file__).parents[3]
SOURCES = [*sorted((ROOT / "bpf").glob("*.h")), ROOT / "bpf" / "pagefault.c"]
TEXT = "\n".join(path.read_text() for path in SOURCES)
SHOWN = "\n".join(
    (ROOT / "tracer" / name).read_text()
    for name in (
        "session/result.py",
        "session/shutdown.py",
        "session/gaps.py",
        "accounting/totals.py",
        "probes/program.py",
    )
)
# Where there is no room, these count it themselves; whoever calls them need not.
COUNT_THEMSELVES = ("new_task_record", "not_sent")


def functions() -> dict[str, str]:
    """The functions of the BPF sources by name, with their bodies; a name may come twice."""
    found: dict[str, str] = {}
    head = r"^(?:static __always_inline [\w \*]*?|int |u64 )(\w+)\([^;{]*\)\n\{\n(.*?)^\}"
    probes = r"^RAW_TRACEPOINT_PROBE\((\w+)\)\n\{\n(.*?)^\}"
    for pattern in (head, probes):
        for name, body in re.findall(pattern, TEXT, re.MULTILINE | re.DOTALL):
            found[name] = found.get(name, "") + body
    return found


def test_every_call_of_reserve_is_found() -> None:
    """What the tests below walk is all there is."""
    calls = len(re.findall(r"\breserve\(&?sequence\)", TEXT))
    assert calls == sum(body.count("reserve(&sequence)") for body in functions().values()) + (
        TEXT.count("reserve(sequence)")
    )
    assert calls >= 8


@pytest.mark.parametrize(
    "name", [name for name, body in functions().items() if re.search(r"= reserve\(", body)]
)
def test_no_room_is_counted(name: str) -> None:
    """After each reserve() the way without room counts before it leaves."""
    body = functions()[name]
    for call in re.finditer(r"(\w+) = reserve\(&?sequence\);\n", body):
        rest = body[call.end() :]
        failed = re.match(rf"\s*if \(!{call[1]}\) \{{\n(.*?)\n\s*\}}", rest, re.DOTALL)
        assert failed is not None, f"{name}: what happens without room?"
        assert re.search(r"\b(count\(COUNT_|not_sent\()", failed[1]), f"{name}: {failed[1]}"


@pytest.mark.parametrize(
    "name", [name for name, body in functions().items() if "is_filtered(" in body]
)
def test_what_is_filtered_is_counted(name: str) -> None:
    body = functions()[name]
    if name == "is_filtered":
        return
    filtered = re.search(r"is_filtered\([^{]*\{\n(.*?)\n\s*\}", body, re.DOTALL)
    assert filtered is not None
    assert "not_sent(" in filtered[1]


def test_every_way_of_not_sent_counts() -> None:
    """Failed, by another process, or one of ours; filtered, or without room."""
    counted = set(re.findall(r"COUNT_\w+", functions()["not_sent"]))
    kinds = ("", "FAILED_", "FOREIGN_")
    assert counted == {f"COUNT_{kind}{why}" for kind in kinds for why in ("LOST", "FILTERED")}


def test_the_counters_are_those_of_the_programs() -> None:
    """All of them: that those we know have these numbers is checked at every start."""
    names = re.findall(r"#define COUNT_(\w+)", TEXT)
    assert sorted(names) == sorted(name.upper() for name in COUNTER_NAMES)
    for name in names:
        assert f"COUNT_{name}" in "".join(functions().values()), f"nothing counts {name}"


@pytest.mark.parametrize("name", COUNTER_NAMES)
def test_every_counter_is_shown(name: str) -> None:
    assert f'["{name}"]' in SHOWN
