"""The command's memory, held so that it can be looked at once more after its end."""

import time

from tracer.probes.program import Program
from tracer.session.plan import Plan
from tracer.target.command import Command


class HeldMemory:
    """The command's memory, kept past its end by a pin (target/mm_pin.py)."""

    def __init__(self, plan: Plan, program: Program) -> None:
        self._command, self._program = plan.command, program
        # Each a struct mm_struct *: what its pin is known to hold, if anything, and what was last
        # to be held.
        self._held = self._wanted = 0
        self.exec_ns = 0  # when its last exec was noticed

    def at_exec(self) -> None:
        """The command stands before its first instruction: hold what it has now."""
        self._wanted, self.exec_ns = self._program.command_memory(), time.monotonic_ns()
        if self._command is not None and self._command.pin is not None:
            self._hold(self._wanted)

    def follow(self) -> None:
        """Keep the pin on the memory the command has now, after an exec, too."""
        command = self._command
        if command is not None and self.unheld():
            self._repin(command)
        elif command is not None and command.pin is not None:
            command.pin.tend()

    def unheld(self) -> bool:
        """Whether the command has memory, by an exec, that nobody has tried to hold yet."""
        if self._command is None or not self._command.started:
            return False
        return self._program.command_memory() != self._wanted

    def release(self) -> None:
        """Let go of it."""
        if self._command is not None:
            self._hold(0)
            self._command.release_pin()

    def is_held(self, memory: int) -> bool:
        """Whether the pin holds this memory, and no exec has come since."""
        return bool(self._held) and self._held == self._program.command_memory() == memory

    def _hold(self, memory: int) -> None:
        """The command's pin holds this memory (struct mm_struct *); 0: none, or who knows which."""
        self._held = memory
        self._program.set_held(memory)

    def _repin(self, command: Command) -> None:
        """Hold the memory of an exec; which memory that is, is known unless another came."""
        self._hold(0)
        self._wanted, self.exec_ns = self._program.command_memory(), time.monotonic_ns()
        command.repin()
        if command.pin is not None and self._program.command_memory() == self._wanted:
            self._hold(self._wanted)
