"""The command's address space, pinned for a last snapshot after its exit."""

import time

from tracer.probes.program import Program
from tracer.session.plan import Plan
from tracer.target.command import Command


class HeldMemory:
    """The command's address space, kept past its exit by a pin (target/mm_pin.py)."""

    def __init__(self, plan: Plan, program: Program) -> None:
        self._command, self._program = plan.command, program
        # Each a struct mm_struct *: what the pin is known to hold, if anything, and what it was
        # last asked to hold.
        self._held = self._wanted = 0
        self.exec_ns = 0  # when its last exec was noticed

    def at_exec(self) -> None:
        """The command is about to run its first instruction: hold the memory it has now."""
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
        """Whether an exec gave the command memory that the pin has not been moved to yet."""
        if self._command is None or not self._command.started:
            return False
        return self._program.command_memory() != self._wanted

    def release(self) -> None:
        """Release the pin."""
        if self._command is not None:
            self._hold(0)
            self._command.release_pin()

    def is_held(self, memory: int) -> bool:
        """Whether the pin holds this memory, and no exec has come since."""
        return bool(self._held) and self._held == self._program.command_memory() == memory

    def _hold(self, memory: int) -> None:
        """The command's pin holds this memory (struct mm_struct *); 0: none, or not known."""
        self._held = memory
        self._program.set_held(memory)

    def _repin(self, command: Command) -> None:
        """Hold the memory of an exec; which one that is, is known unless another exec followed."""
        self._hold(0)
        self._wanted, self.exec_ns = self._program.command_memory(), time.monotonic_ns()
        command.repin()
        if command.pin is not None and self._program.command_memory() == self._wanted:
            self._hold(self._wanted)
