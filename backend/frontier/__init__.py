"""The Pareto front of evaluated checkpoints: front, hypervolume, knee. Pure functions on (task score, safety) pairs.

Both axes are shares and both are maximised. The scale is fixed (0–1, never the data's range) and so is the reference
point, (0, 0) unless told otherwise: two hypervolumes are comparable only when theirs are the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from backend.types import Frontier

Pair = tuple[float, float]
LEAST_KNEE = 0.05


def front(points: Sequence[Pair]) -> tuple[int, ...]:
    """Indices of the points no other point beats, by rising x; of equal points the first.

    >>> front([(0.1, 0.9), (0.5, 0.5), (0.4, 0.4), (0.9, 0.1), (0.5, 0.5)])
    (0, 1, 3)
    """
    best_first = sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1], i))
    kept: list[int] = []
    for i in best_first:
        if not kept or points[i][1] > points[kept[-1]][1]:
            kept.append(i)
    return tuple(reversed(kept))


def hypervolume(points: Sequence[Pair], reference: Pair = (0.0, 0.0)) -> float:
    """The area that the points dominate above `reference`, exact.

    >>> hypervolume([(0.5, 1.0), (1.0, 0.5)])
    0.75
    >>> hypervolume([(0.5, 0.5)], reference=(0.6, 0.0))
    0.0
    """
    above = [point for point in points if point[0] > reference[0] and point[1] > reference[1]]
    area, left = 0.0, reference[0]
    for i in front(above):
        x, y = above[i]
        area += (x - left) * (y - reference[1])
        left = x
    return area


def knee(points: Sequence[Pair]) -> int | None:
    """Index of the front's point farthest above the chord of its ends, in units of the ends' span; None without one.

    A front of fewer than three points, or one that stays within 0.05 of its chord, has no knee.

    >>> knee([(0.0, 1.0), (0.8, 0.9), (1.0, 0.0)])
    1
    >>> knee([(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]) is None
    True
    """
    on_front = front(points)
    if len(on_front) < 3:
        return None
    (x0, y0), (x1, y1) = points[on_front[0]], points[on_front[-1]]
    heights = {i: ((points[i][0] - x0) / (x1 - x0) + (points[i][1] - y1) / (y0 - y1) - 1) / 2**0.5 for i in on_front}
    best = max(heights, key=lambda i: heights[i])
    return best if heights[best] >= LEAST_KNEE else None


def frontier(points: Sequence[Pair], reference: Pair = (0.0, 0.0)) -> Frontier:
    """Front, hypervolume and knee of `points` at once."""
    return Frontier(front(points), hypervolume(points, reference), reference, knee(points))
