"""Names as a CSV file has them, for unit and live tests."""

import re


def name_of(cell: str) -> str:
    """The name a CSV cell stands for, by the rule of docs/csv.md."""

    def one(match: re.Match[str]) -> str:
        if match[1] == "\\":
            return "\\"
        code = int(match[1][1:], 16)
        return chr(code + 0xDC00 if match[1][0] == "x" and code >= 0x80 else code)

    pattern = r"\\(\\|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"
    return re.sub(pattern, one, cell.removeprefix("'"))
