"""The options of pagefault-trace as docs/cli.md lists them, made from click's own help.

python -m tests.unit.cli_reference writes them into the page anew.
"""

from pathlib import Path

import click

from tracer.app.cli import PROGRAM, command_line

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
BEGIN = "<!-- options: made by tests/unit/cli_reference.py -->\n"
END = "<!-- end of options -->\n"


def reference() -> str:
    """A table row an option: how it is written, and the help text of --help."""
    context = command_line.make_context(PROGRAM, [], resilient_parsing=True)
    rows = ["| option | meaning |", "|---|---|"]
    for parameter in command_line.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None:
            rows.append("| `{}` | {} |".format(*(text.replace("|", "\\|") for text in record)))
    return "\n".join(rows) + "\n"


def main() -> None:
    """Write the table into the page."""
    before, rest = PAGE.read_text().split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{BEGIN}{reference()}{END}{after}")


if __name__ == "__main__":
    main()
