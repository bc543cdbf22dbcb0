"""The target: an existing process, or a command that the tracer starts, and its pinned memory."""
