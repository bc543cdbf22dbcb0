"""bpf/pagefault.c compiled for one probe: what the compiling process hands over."""

import base64
import json
from dataclasses import asdict, dataclass, field
from typing import Any

PIDS = 1 << 22  # PID_MAX_LIMIT, include/linux/threads.h: numbers are below it
PLACES = 1 << 14  # threads with faults under way that need no look-up; 4 MB at most on 5.10


@dataclass(frozen=True)
class MapSpec:
    """A map the programs share; sizes in bytes."""

    name: str
    kind: int  # enum bpf_map_type
    key_size: int
    value_size: int
    entries: int
    flags: int


@dataclass(frozen=True)
class Function:
    """One program's instructions, and which of them hold which map's descriptor."""

    name: str
    code: bytes
    maps: list[tuple[int, str]]


@dataclass(frozen=True)
class Answer:
    """What came of a request: the first probe of its list that compiled, if any."""

    bcc_version: str = ""
    bcc_folder: str = ""
    probe: str = ""  # "": none
    reasons: list[str] = field(default_factory=list)  # why those before it were passed over
    maps: list[MapSpec] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)
    btf_ids: dict[str, int] = field(default_factory=dict)  # of kernel functions that it may hook
    milliseconds: dict[str, float] = field(default_factory=dict)  # what took how long


def encode(answer: Answer) -> str:
    """As JSON."""
    plain = asdict(answer)
    for function in plain["functions"]:
        function["code"] = base64.b64encode(function["code"]).decode()
    return json.dumps(plain)


def decode(plain: dict[str, Any]) -> Answer:
    """The inverse of `encode`, JSON parsed already."""
    plain["maps"] = [MapSpec(**each) for each in plain["maps"]]
    plain["functions"] = [
        Function(
            each["name"],
            base64.b64decode(each["code"]),
            [(number, name) for number, name in each["maps"]],
        )
        for each in plain["functions"]
    ]
    return Answer(**plain)
