"""Points as pixels: where there are more of them than a picture has room for.

As many points of a kind fall on a pixel, so much it takes that kind's colour;
how dark it is goes with the logarithm of how many there are. A single point
in ten million can be seen.
"""

import numpy as np

from tracer.common.types import U8, Floats, Integers

Pixels = U8  # height × width × RGBA, the first row at the bottom
_FAINTEST = 0.4
_SPARSE = 0.03  # fewer pixels than this part: each point is drawn larger


def pixels(
    x: Floats,
    y: Floats,
    label: Integers,
    colours: list[str],
    width: int,
    height: int,
    weight: Floats | None = None,
) -> Pixels:
    """An image of points at x and y (0 to 1), coloured by label; NaN is nowhere."""
    there = np.isfinite(x) & np.isfinite(y)
    column = np.clip((x[there] * width).astype(np.int64), 0, width - 1)
    row = np.clip((y[there] * height).astype(np.int64), 0, height - 1)
    cell = (row * width + column) * len(colours) + label[there]
    size = width * height * len(colours)
    counts = np.bincount(cell, None if weight is None else weight[there], minlength=size)
    return shaded(counts.reshape(height, width, len(colours)).astype(np.float64), colours)


def shaded(counts: Floats, colours: list[str]) -> Pixels:
    """The image of `counts`, height × width × colours."""
    counts = np.asarray(counts, np.float64)
    total = counts.sum(axis=2)
    if np.count_nonzero(total) < _SPARSE * total.size:
        counts = _spread(counts)
        total = counts.sum(axis=2)
    palette = np.array([_rgb(colour) for colour in colours], np.float64).reshape(-1, 3)
    share = counts / np.maximum(total, 1e-9)[:, :, None]
    image = np.zeros((*total.shape, 4), np.uint8)
    image[:, :, :3] = np.rint(share @ palette)
    most = np.log1p(total.max(initial=1))
    alpha = _FAINTEST + (1 - _FAINTEST) * np.log1p(total) / most
    image[:, :, 3] = np.where(total > 0, np.rint(alpha * 255), 0)
    return image


def _spread(counts: Floats) -> Floats:
    """Every point on the eight pixels around it as well, where nothing else is."""
    grown = counts.copy()
    for axis in (0, 1):
        before = grown.copy()
        for shift in (-1, 1):
            moved = np.roll(before, shift, axis)
            edge = (slice(None),) * axis + (0 if shift == 1 else -1,)
            moved[edge] = 0
            empty = grown.sum(axis=2) == 0
            grown[empty] = moved[empty]
    return grown


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
