"""Whoever is asked about files answers at once, in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tracer.symbolizing import server
from tracer.symbolizing.helper import Question
from tracer.symbolizing.lookup import DEBUG_ROOT, Lookup, no_file
from tracer.symbolizing.server import Server


class Here:
    """A Server without a process (tracer.symbolizing.helper.Asked)."""

    def __init__(self) -> None:
        self.since_s = 0.0
        self.started = 1
        archive, self.lacking = server._archive()
        library = server._libstdcxx()
        self.server = Server(archive, lambda name: server._demangled(library, name))
        self.asked: list[Any] = []
        self.silent = False  # for now
        self._waiting: list[Question] = []

    def ask(self, question: Question) -> None:
        self._waiting.append(question)
        self.turn()

    def turn(self, until: float = 0.0) -> bool:
        while self._waiting and not self.silent:
            question = self._waiting.pop(0)
            made = question.make(self.started)
            if made is not None:
                message, descriptors = made
                self.asked.append(message)
                question.answered(self.server.answer(message, descriptors), "")
        return not self._waiting


def lookup(
    open_file: Callable[[int], int] = no_file,
    debug_root: Path = DEBUG_ROOT,
    asked: Here | None = None,
) -> Lookup:
    """What looks up code here."""
    return Lookup(asked or Here(), open_file, debug_root)
