"""What the running kernel says of itself: BTF, memory, mappings as they are made, perf events."""
