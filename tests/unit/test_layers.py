"""The rules of the house that imports can break: which package may know which.

Packages stand on floors; an import leads to a lower floor or stays in its package, and modules of
a package know each other in one direction only. Imports inside functions and under TYPE_CHECKING
count like all others.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# From the ground up. What stands on one floor does not know its neighbours.
FLOORS = (
    {"common"},
    {"kernel", "procfs", "model", "wire"},
    {"files", "probes", "spaces", "symbolizing"},
    {"accounting", "callstacks", "target", "timeline"},
    {"join", "outputs", "snapshots"},
    {"session"},
    {"live"},
    {"app"},
)
# Programs of their own: what they may know of the tracer.
PROGRAMS = {
    "demos": {"common"},
    "ptdump": {"common", "procfs"},
    "reporting": {"common", "files", "model"},
}
# Within reporting, likewise.
REPORT_FLOORS = (
    {"reading"},
    {"analysis"},
    {"text"},
    {"exports", "pictures"},
)
FACTS = {"tracer"}  # the version
MOST_IN_THE_ROOT = 10
LONGEST_PYTHON, LONGEST_BPF = 500, 700  # lines of a file


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in sorted((ROOT / "tracer").rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def imports(name: str) -> Iterator[str]:
    """The modules of ours that a module imports, anywhere in it."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{name}: imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found = inner if inner in MODULES else node.module
                if found in MODULES:
                    yield found


def package(name: str) -> str:
    """`wire` of `tracer.wire.ring`; "" of what lies in tracer/ itself."""
    return next(iter(MODULES[name].relative_to(ROOT / "tracer").parts[:-1]), "")


def below(floors: tuple[set[str], ...], here: str) -> set[str]:
    """Everything on lower floors than `here`."""
    number = next(i for i, floor in enumerate(floors) if here in floor)
    return set().union(*floors[:number])


@pytest.mark.parametrize("name", MODULES)
def test_imports_lead_down(name: str) -> None:
    mine = package(name)
    if not mine:
        return
    may = PROGRAMS.get(mine) or below(FLOORS, mine)
    climbing = {
        each for each in imports(name) if each not in FACTS and package(each) not in {mine, *may}
    }
    assert not climbing, f"{name}: {climbing} is no floor below; floors are listed in {__file__}"


@pytest.mark.parametrize("name", [name for name in MODULES if name.count(".") > 2])
def test_imports_of_reports_lead_down(name: str) -> None:
    mine = name.split(".")[2]
    theirs = {each.split(".")[2] for each in imports(name) if each.startswith("tracer.reporting.")}
    assert theirs <= {mine, *below(REPORT_FLOORS, mine)}


def test_every_package_has_its_floor() -> None:
    packages = {package(name) for name in MODULES} - {""}
    assert packages == set().union(*FLOORS, PROGRAMS)
    assert sum(not package(name) for name in MODULES) <= MOST_IN_THE_ROOT


def test_no_module_imports_itself_by_way_of_others() -> None:
    knows = {name: set(imports(name)) - {name} for name in MODULES}
    while knows:
        free = {name for name, others in knows.items() if not others & knows.keys()}
        assert free, f"these import each other: {sorted(knows)}"
        knows = {name: others for name, others in knows.items() if name not in free}


def test_one_module_imports_bcc() -> None:
    def names_it(node: ast.AST) -> bool:
        match node:
            case ast.Import(names=names):
                return any(each.name.split(".")[0] == "bcc" for each in names)
            case ast.ImportFrom(module=str(module)):
                return module.split(".")[0] == "bcc"
            case ast.Call(func=ast.Name(id="importer"), args=[ast.Constant(value="bcc")]):
                return True
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant("bcc")]):
                return True
        return False

    found = {name for name, tree in TREES.items() if any(map(names_it, ast.walk(tree)))}
    assert found == {"tracer.probes.bcc_check"}


# Who reads /proc besides procfs/ and kernel/, each for what no function of theirs can give.
READERS = {
    "tracer.probes.compiler",  # mounts an empty kallsyms over bcc's own
    "tracer.spaces.code_files",  # opens map_files, by procfs.roots
    "tracer.symbolizing.perf_maps",  # opens /tmp as the process sees it, by procfs.roots
    "tracer.target.mm_pin",  # holds pagemap and maps open past the process's end
}


def test_procfs_and_kernel_read_proc() -> None:
    """Everything but our own (/proc/self) is read there."""

    def reads(tree: ast.AST) -> bool:
        texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        words = [text.decode("latin-1") if isinstance(text, bytes) else str(text) for text in texts]
        return any(re.match(r"/proc($|/(?!self/))", word) for word in words)

    found = {name for name, tree in TREES.items() if reads(tree)}
    assert {name for name in found if package(name) not in ("procfs", "kernel")} == READERS


def test_only_the_ledger_writes_page_state() -> None:
    """Nobody else assigns to elements of its columns; page_store.py clears whole blocks."""

    def writes(node: ast.AST) -> bool:
        match node:
            case ast.Assign(targets=targets):
                pass
            case ast.AugAssign(target=target) | ast.AnnAssign(target=target):
                targets = [target]
            case _:
                return False
        return any(map(is_state, targets))

    def is_state(target: ast.AST) -> bool:
        match target:
            case ast.Subscript(
                value=ast.Subscript(value=ast.Attribute(attr=name) | ast.Name(id=name))
            ):
                return name in ("ledger", "_ledger", "columns", "_columns")
        return False

    packages = ("timeline", "snapshots", "join", "session", "live")
    trees = {name: tree for name, tree in TREES.items() if package(name) in packages}
    found = {name for name, tree in trees.items() if any(map(writes, ast.walk(tree)))}
    assert found == {"tracer.timeline.ledger"}


def test_unit_tests_mirror_the_packages() -> None:
    """Each folder of unit tests is named as a package of the tracer, or is one of `others`."""
    folders = {path.name for path in (ROOT / "tests" / "unit").iterdir() if path.is_dir()}
    mirrored = {package(name) for name in MODULES} - {""}
    others = {"bench", "data", "fuzz", "kernels", "tools"}
    assert folders - {"__pycache__"} <= mirrored | others


@pytest.mark.parametrize("folder", ["tracer", "tests", "bench"])
def test_python_files_are_short(folder: str) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert {str(p): n for p, n in lengths.items() if n > LONGEST_PYTHON} == {}


def test_bpf_files_are_short() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / "bpf").glob("*.[ch]")}
    assert {str(p): n for p, n in lengths.items() if n > LONGEST_BPF} == {}
