"""Facts about the running machine: memory, page-table levels, symbols, preemption."""

import gzip
import os
import platform
from pathlib import Path

from tracer.common.errors import Exit, TraceError


def check_architecture() -> None:
    """Raise TraceError unless this is x86-64, as the page-table walk and pt_regs require."""
    machine = platform.machine()
    if machine != "x86_64":
        raise TraceError(
            f"this machine is {machine}; pagefault-trace knows x86-64 only",
            "run it on an x86-64 machine",
            Exit.UNSUPPORTED,
        )


def page_table_levels() -> int:
    """5 where the CPU's la57 is in use, else 4 (the flag is cleared when booted with no5lvl)."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return 5 if " la57" in line else 4
    return 4


def symbol_address(name: str) -> int:
    """The address kallsyms gives for `name`; 0 where it is absent or hidden (kptr_restrict)."""
    wanted = f" {name}\n".encode()
    with open("/proc/kallsyms", "rb") as symbols:
        content = symbols.read()
    at = content.find(wanted)
    if at < 0:
        return 0
    line = content[content.rfind(b"\n", 0, at) + 1 : at]
    return int(line.split()[0], 16)


def has_symbol(name: str) -> bool:
    """Whether kallsyms has `name`, also where addresses are hidden."""
    try:
        return f" {name}\n".encode() in Path("/proc/kallsyms").read_bytes()
    except OSError:
        return False


def highest_frame() -> int:
    """The highest System RAM address of /proc/iomem; where hidden, twice the memory size."""
    highest = 0
    for line in Path("/proc/iomem").read_text().splitlines():
        if line.endswith("System RAM"):
            highest = max(highest, int(line.split(" : ")[0].strip().split("-")[1], 16))
    if highest:
        return highest
    return 2 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def preemption() -> str:
    """The kernel's preemption model: "none", "voluntary", "lazy", "full", "rt" or "unknown".

    /sys/kernel/debug/sched/preempt shows the dynamic choice in parentheses;
    the version string names the built-in one (init/version-timestamp.c).
    """
    try:
        text = Path("/sys/kernel/debug/sched/preempt").read_text()
        return text[text.index("(") + 1 : text.index(")")]
    except (OSError, ValueError):
        pass
    version = os.uname().version
    if "PREEMPT_RT" in version:
        return "rt"
    if "PREEMPT_LAZY" in version:
        return "lazy"
    if "PREEMPT_DYNAMIC" in version:
        return _boot_choice()
    if "PREEMPT" in version:
        return "full"
    return "voluntary"


def preemptible() -> bool:
    """Whether kernel code can be preempted, and so BPF programs that do not disable it."""
    return preemption() not in ("none", "voluntary")


def _boot_choice() -> str:
    """preempt= on the kernel's command line, else the model the kernel was built with."""
    for word in Path("/proc/cmdline").read_text().split():
        if word.startswith("preempt="):
            return word.removeprefix("preempt=")
    config = kernel_config()
    for option, model in (
        ("PREEMPT_NONE", "none"),
        ("PREEMPT_VOLUNTARY", "voluntary"),
        ("PREEMPT_LAZY", "lazy"),
        ("PREEMPT", "full"),
    ):
        if f"CONFIG_{option}=y\n" in config:
            return model
    return "unknown"


def kernel_config() -> str:
    """The kernel's .config; "" where it is not available."""
    try:
        return gzip.decompress(Path("/proc/config.gz").read_bytes()).decode()
    except OSError:
        pass
    try:
        return Path(f"/boot/config-{os.uname().release}").read_text()
    except OSError:
        return ""
