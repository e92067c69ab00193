"""The frontier: checked against brute force, and against what must hold for any set of points."""

from hypothesis import given
from hypothesis import strategies as st

from backend.frontier import front, frontier, hypervolume, knee

SHARES = st.integers(0, 20).map(lambda k: k / 20)
POINTS = st.lists(st.tuples(SHARES, SHARES), max_size=12)


def beats(one, other):
    return one[0] >= other[0] and one[1] >= other[1] and one != other


@given(POINTS)
def test_the_front_is_what_nothing_beats(points):
    best = {point for point in points if not any(beats(other, point) for other in points)}
    assert {points[i] for i in front(points)} == best
    assert len(front(points)) == len(best)


@given(POINTS)
def test_the_hypervolume_is_the_area_counted_cell_by_cell(points):
    cells = sum(any(x >= (i + 1) / 20 and y >= (j + 1) / 20 for x, y in points) for i in range(20) for j in range(20))
    assert abs(hypervolume(points) - cells / 400) < 1e-9


@given(POINTS, st.tuples(SHARES, SHARES))
def test_one_more_point_never_lowers_the_hypervolume(points, extra):
    assert hypervolume([*points, extra]) >= hypervolume(points) - 1e-12


@given(POINTS)
def test_the_knee_is_on_the_front(points):
    found = frontier(points)
    assert found.knee is None or found.knee in found.front


def test_a_straight_or_short_front_has_no_knee():
    assert knee([]) is None
    assert knee([(0.1, 0.9), (0.9, 0.1)]) is None
    assert knee([(0.1, 0.9), (0.5, 0.5), (0.9, 0.1)]) is None
