"""How many pages were resident when: a point for each moment one is told, in constant memory."""

MOST_POINTS = 4096


class ResidentSeries:
    """Points in time order; where there are too many, every second one is let go."""

    def __init__(self, most: int = MOST_POINTS) -> None:
        self._most = most
        self._points: list[tuple[int, int]] = []

    def add(self, time_ns: int, pages: int) -> None:
        """Pages with a frame at `time_ns` (CLOCK_MONOTONIC), all address spaces together."""
        self._points.append((time_ns, pages))
        if len(self._points) > self._most:
            # The first and the latest point stay.
            self._points = self._points[:-1:2] + self._points[-1:]

    @property
    def points(self) -> list[tuple[int, int]]:
        """(time_ns, pages), at most `most` of them."""
        return list(self._points)
