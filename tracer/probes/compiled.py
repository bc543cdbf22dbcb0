"""Data types of a compiled probe: maps and instructions, as the compiling process returns them."""

import base64
import json
from dataclasses import asdict, dataclass, field
from typing import Any

PIDS = 1 << 22  # PID_MAX_LIMIT, include/linux/threads.h: pids are below it
SLOTS = 1 << 14  # slots of threads that need no hash look-up; 4 MB at most on 5.10


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
    """One program's instructions, and which of them load which map's descriptor."""

    name: str
    code: bytes
    maps: list[tuple[int, str]]
    calls: list[int] = field(default_factory=list)  # where global functions begin (subprogram.py)


@dataclass(frozen=True)
class Answer:
    """The result of a request: the first probe of its list that compiled, if any."""

    bcc_version: str = ""
    bcc_folder: str = ""
    probe: str = ""  # "": none
    reasons: list[str] = field(default_factory=list)  # why those before it were passed over
    maps: list[MapSpec] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)
    btf_ids: dict[str, int] = field(default_factory=dict)  # of kernel functions that it may hook
    milliseconds: dict[str, float] = field(default_factory=dict)  # durations by step
    cached: str = ""  # the key under which it was found compiled already (probes/cache.py)


def encode(answer: Answer) -> str:
    """As JSON."""
    plain = asdict(answer)
    for function in plain["functions"]:
        function["code"] = base64.b64encode(function["code"]).decode()
    return json.dumps(plain)


def decode(plain: dict[str, Any]) -> Answer:
    """The inverse of `encode`, JSON parsed already; raises ValueError, TypeError or KeyError."""
    plain["maps"] = [MapSpec(**each) for each in plain["maps"]]
    plain["functions"] = [
        Function(
            each["name"],
            base64.b64decode(each["code"], validate=True),
            [(number, name) for number, name in each["maps"]],
            each["calls"],
        )
        for each in plain["functions"]
    ]
    answer = Answer(**plain)
    _check(answer)
    return answer


_SHAPES: dict[type, dict[str, type]] = {
    Answer: {
        **dict.fromkeys(("bcc_version", "bcc_folder", "probe", "cached"), str),
        **dict.fromkeys(("reasons", "maps", "functions"), list),
        **dict.fromkeys(("btf_ids", "milliseconds"), dict),
    },
    MapSpec: {
        "name": str,
        **dict.fromkeys(("kind", "key_size", "value_size", "entries", "flags"), int),
    },
    Function: {"name": str, "code": bytes, "maps": list, "calls": list},
}


def _check(answer: Answer) -> None:
    """Raise ValueError where a member is not what it should be."""
    for each in (answer, *answer.maps, *answer.functions):
        for name, kind in _SHAPES[type(each)].items():
            if type(getattr(each, name)) is not kind:
                raise ValueError(f"{name} is no {kind.__name__}")
    names = {each.name for each in answer.maps}
    for function in answer.functions:
        room, rest = divmod(len(function.code), 8)
        if rest or not room:
            raise ValueError(f"{function.name} is no whole number of instructions")
        for start in function.calls:
            if type(start) is not int or not 0 < start < room:
                raise ValueError(f"{function.name} has no instruction {start}")
        for number, name in function.maps:
            if type(number) is not int or not 0 <= number < room or name not in names:
                raise ValueError(f"{function.name} refers to a map that is not there")
