"""The file map of docs/how-it-works.md, made from the tree.

python -m tests.unit.file_map writes it into the page anew.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-it-works.md"
BEGIN = "<!-- file map: made by tests/unit/file_map.py -->\n"
END = "<!-- end of the file map -->\n"
# In the order in which a fault passes them: from the kernel to what is printed.
FOLDERS = (
    *("bpf", "tracer", "tracer/app", "tracer/target", "tracer/probes", "tracer/wire"),
    *("tracer/kernel", "tracer/procfs", "tracer/session", "tracer/spaces", "tracer/join"),
    *("tracer/timeline", "tracer/snapshots", "tracer/accounting", "tracer/callstacks"),
    *("tracer/symbolizing", "tracer/model", "tracer/outputs", "tracer/files", "tracer/live"),
    *("tracer/common", "tracer/reporting", "tracer/reporting/reading", "tracer/reporting/analysis"),
    *("tracer/reporting/text", "tracer/reporting/pictures", "tracer/reporting/exports"),
    *("tracer/ptdump", "tracer/demos"),
)
_HOLDS = {
    "bpf": "The programs that run in the kernel, in C.",
    "tracer": "Where each command begins.",
}


def file_map() -> str:
    """A table row a folder: what it holds, by its `__init__.py`, and its files."""
    rows = ["| folder | what it holds | files |", "|---|---|---|"]
    for folder in FOLDERS:
        names = [f"`{path.stem if path.suffix == '.py' else path.name}`" for path in files(folder)]
        rows.append(f"| `{folder}/` | {_HOLDS.get(folder) or holds(folder)} | {', '.join(names)} |")
    return "\n".join(rows) + "\n"


def files(folder: str) -> list[Path]:
    """The sources that lie in it."""
    found = (ROOT / folder).glob("*.py" if folder.startswith("tracer") else "*.[ch]")
    return sorted(path for path in found if path.name != "__init__.py")


def holds(folder: str) -> str:
    """The first line of its docstring."""
    text = ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text()))
    assert text, f"{folder}/__init__.py does not say what it holds"
    return text.splitlines()[0]


def main() -> None:
    """Write the map into the page."""
    before, rest = PAGE.read_text().split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{BEGIN}{file_map()}{END}{after}")


if __name__ == "__main__":
    main()
