"""Interfaces of the running kernel: BTF, paging, perf events, and perf's mmap records."""
