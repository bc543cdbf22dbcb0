"""Colours and marks of kinds and sources: the same in every picture.

Okabe and Ito's palette, as on the terminal: distinguishable with any colour vision.
"""

INK, MUTED, RULE, BAND, PAPER = "#1b1f24", "#667080", "#dfe3e8", "#f4f6f8", "#ffffff"
ACCENT = "#0072b2"

COLOURS = {
    "anon": "#009e73",
    "zero": "#9aa0a6",
    "cow": "#e69f00",
    "reuse": "#f2cf80",
    "file": "#56b4e9",
    "mkwrite": "#0072b2",
    "shmem": "#cc79a7",
    "swap": "#d55e00",
    "huge": "#005e45",
    "hugetlb": "#003d2d",
    "numa": "#8c6bb1",
    "migration": "#5e3c99",
    "spurious": "#c4c9cf",
    "failed": "#000000",
    "special": "#6f7780",
    "around": "#93cdf0",
    "initial": "#d5dae0",
    "fork": "#a6761d",
    "exec": "#7a6a55",
    "populate": "#66a61e",
    "remote": "#e7298a",
    "collapse": "#1b7f5f",
    "migrate": "#5e3c99",
    "move": "#b07aa1",
    "ksm": "#7570b3",
    "uffd": "#f0648c",
    "swapoff": "#e0763a",
    "missed": "#b3003c",
    "filtered": "#8f98a3",
}
OTHER = "#8f98a3"

_MARKS = {
    **{"anon": "o", "cow": "s", "file": "^", "huge": "D", "shmem": "P", "swap": "X"},
    **{"zero": "h", "mkwrite": "v", "special": "*", "around": "^", "hugetlb": "D", "fork": "p"},
}

MEANINGS = {
    "": "not known",
    "around": "mapped with a neighbour's fault",
    "initial": "present at the start",
    "fork": "copied by fork",
    "exec": "set up by exec",
}


def colour(word: str) -> str:
    """The colour of a kind or source, as #rrggbb."""
    return COLOURS.get(word, OTHER)


def mark(word: str) -> str:
    """matplotlib's marker for a kind or source."""
    return _MARKS.get(word, "o")


def label(word: str) -> str:
    """What a legend says."""
    return MEANINGS.get(word, word)
