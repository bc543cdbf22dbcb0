"""The command ptdump: the page table of a process."""
