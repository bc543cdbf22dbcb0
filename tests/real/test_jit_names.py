"""Names of JIT-compiled code, by the perf maps that Node.js and a JVM write."""

import csv
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.live import cli
from tests.real.programs import BY_NAME, PATH

# Functions that are compiled and thrown away one after another, each after its number.
ORDERED = """
let sum = 0;
for (let round = 0; round < 300; round++) {
    sum += eval(`(function g${round}() {
        let s = 0;
        for (let k = 0; k < 60; k++) {
            const pages = Buffer.allocUnsafeSlow(64 * 4096);
            for (let i = 0; i < pages.length; i += 4096) s += pages[i] = 1;
        }
        return s;
    })`)();
}
console.log(sum);
"""
# A function that runs twice is interpreted. Nothing else is compiled near it, and when it runs
# again its stack is known.
TWICE = """
function twice() {
    const pages = Buffer.allocUnsafeSlow(2048 * 4096);
    return pages.fill(1).length;
}
const pause = () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000);
for (let i = 0; i < 2; i++) {
    console.log(twice());
    pause();
}
"""
JAVA = """
public class Grow {
    static byte[] grow() {
        byte[] pages = new byte[1000000];
        for (int i = 0; i < pages.length; i += 64) pages[i] = 1;
        return pages;
    }
    public static void main(String[] none) throws Exception {
        byte[][] kept = new byte[120][];
        for (int i = 0; i < kept.length; i++) {
            kept[i] = grow();
            Thread.sleep(20);
        }
        System.out.println(kept.length);
    }
}
"""
Frames = list[dict[str, str]]


def trace(
    folder: Path, config: pytest.Config, command: list[str], *options: str
) -> list[tuple[int, Frames]]:
    """Trace a command: when each fault was, and its frames."""
    out = folder / "trace.csv"
    probe = ("--probe", config.getoption("--probe"))
    there = ["env", "-C", str(folder), *command]  # V8 leaves a log in its working directory
    done = cli.run(*probe, "--stacks", "--quiet", *options, "--csv", out, "--", *there)
    assert done.status == 0, done.err
    frames: dict[str, Frames] = {}
    with Path(f"{out}.stacks.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            frames.setdefault(row["stack"], []).append(row)
    return sorted(
        ((int(row["time_ns"]), frames[row["stack"]]) for row in cli.rows(out) if row["stack"]),
        key=lambda fault: fault[0],
    )


def made(frames: Frames) -> Frames:
    """Those of JIT-compiled code."""
    return [frame for frame in frames if frame["module"] in ("[jit]", "[anon]")]


def need(program: str) -> None:
    if missing := BY_NAME[program].missing():
        pytest.skip(f"{missing}: tools/bootstrap --real installs it")


def test_no_function_has_the_name_of_another(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """They run in order, at the same addresses."""
    need("node")
    script = tmp_path / "ordered.js"
    script.write_text(ORDERED)
    faults = trace(tmp_path, pytestconfig, ["node", "--perf-basic-prof", str(script)])
    compiled = [made(frames) for _, frames in faults if made(frames)]
    order = [
        int(frame["function"][1:])
        for frames in compiled
        for frame in frames[:1]
        if frame["function"].startswith("g") and frame["function"][1:].isdigit()
    ]
    assert len(set(order)) > 10
    assert order == sorted(order)
    named = sum(all(frame["function"] for frame in frames) for frames in compiled)
    print(f"{named / len(compiled):.1%} of {len(compiled)} faults in compiled code have names")
    assert named / len(compiled) > 0.8
    notes = Counter(
        frame["note"] for frames in compiled for frame in frames if not frame["function"]
    )
    assert not {note for note in notes if note and not note.startswith("no ")}, notes


def test_interpreted_functions_of_node(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """By name, file and line, if each has its own trampoline."""
    need("node")
    script = tmp_path / "twice.js"
    script.write_text(TWICE)
    options = ["--perf-basic-prof", "--interpreted-frames-native-stack"]
    faults = trace(
        tmp_path, pytestconfig, ["env", "-C", str(tmp_path), "node", *options, str(script)]
    )
    found = Counter(
        (frame["file"], frame["line"])
        for _, frames in faults
        for frame in frames
        if frame["function"] == "twice"
    )
    assert set(found) == {(str(script), "2")}
    assert found.total() > 2000


def test_methods_of_a_jvm(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """It is asked for its perf map while it runs."""
    need("java")
    if shutil.which("jcmd", path=PATH) is None:
        pytest.skip("jcmd (package default-jdk-headless): tools/bootstrap --real installs it")
    (tmp_path / "Grow.java").write_text(JAVA)
    subprocess.run(["javac", tmp_path / "Grow.java"], check=True, env={"PATH": PATH})
    java = ["java", "-Xmx400m", "-XX:+PreserveFramePointer", "-cp", str(tmp_path), "Grow"]
    faults = trace(tmp_path, pytestconfig, java, "--jvm-perfmap")
    compiled = [made(frames) for _, frames in faults if made(frames)]
    named = sum(all(frame["function"] for frame in frames) for frames in compiled)
    print(f"{named / len(compiled):.1%} of {len(compiled)} faults in compiled code have names")
    assert named / len(compiled) > 0.8
    methods = Counter(frame["function"] for frames in compiled for frame in frames)
    assert methods["byte[] Grow.grow()"] > 10_000, methods.most_common(5)
