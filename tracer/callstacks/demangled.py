"""Short demangled names: C++ functions without parameter and return types.

The grammar is that of what `__cxa_demangle` makes of Itanium C++ ABI names; other languages'
names look alike (Go's `runtime.(*mcache).refill`) and are none of it.
"""

import re

# What follows the word `operator`: symbols, or after a blank what is allocated or converted to.
_OPERATOR = re.compile(
    r"(?:\(\)|\[\]|->\*?|<=>|<<=?|>>=?|&&|\|\||\+\+|--|[-+*/%^&|=!<>]=?|,|~"
    r"| (?:new|delete)(?:\[\])?|\"\" ?\w+| co_await| [^()]*)(?: (?=<))?"
)
_CLONE = re.compile(r"(?: \[clone [^\]]*\]| \(\.[^)]*\)|\.llvm\.\d+)+$")
_RUST_HASH = re.compile(r"::h[0-9a-f]{16}$")  # of its legacy mangling, which is C++'s


def is_cpp(symbol: str) -> bool:
    """Whether a symbol is mangled as C++'s are, as Rust's may be, too."""
    return symbol.startswith("_Z")


def without_types(name: str) -> str:
    """`void app::fill<int>(int) const [clone .cold]` is app::fill<int>."""
    name = _RUST_HASH.sub("", _CLONE.sub("", name))
    blanks, groups = _top_level(name)
    # The last group in parentheses has the parameters; others are part of a name, or a type.
    end = len(name)
    if groups and not name.startswith("::", groups[-1][1]):
        end = groups[-1][0]
    start = max((blank + 1 for blank in blanks if blank < end), default=0)
    return name[start:end] or name


def _top_level(name: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Blanks, and groups in parentheses, that are in no brackets."""
    blanks, groups = [], []
    depth = begin = at = 0
    while at < len(name):
        char = name[at]
        if name.startswith("operator", at) and not (at and _is_word(name[at - 1])):
            at += len("operator")
            match = _OPERATOR.match(name, at)
            at = match.end() if match else at
            continue
        if char in "<([{":
            begin = at if not depth else begin
            depth += 1
        elif char in ">)]}" and not name.startswith("->", at - 1):
            depth -= 1
            if not depth and char == ")":
                groups.append((begin, at + 1))
        elif char == " " and not depth:
            blanks.append(at)
        at += 1
    return blanks, groups


def _is_word(char: str) -> bool:
    return char.isalnum() or char == "_"
