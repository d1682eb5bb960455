"""What lacks of a file is said unless it was written since, whatever order the pieces come in."""

from __future__ import annotations

import errno

from hypothesis import given
from hypothesis import strategies as st

from ghostfs.fs.shortwrites import ShortWrites
from ghostfs.model import InodeId

FILE, OTHER = InodeId(5), InodeId(6)
RANGES = st.tuples(st.integers(0, 30), st.integers(1, 30)).map(lambda pair: (pair[0], sum(pair)))


@given(st.lists(st.tuples(st.booleans(), RANGES)))
def test_nothing_that_lacks_is_forgotten(moves: list[tuple[bool, tuple[int, int]]]) -> None:
    short = ShortWrites()
    lacking: set[int] = set()
    for taken, (begin, end) in moves:
        if taken:
            short.written(FILE, begin, end)
            lacking -= set(range(begin, end))
        else:
            short.lacks(FILE, begin, end, errno.ENOSPC)
            lacking |= set(range(begin, end))
        assert short or not lacking
    if moves:
        short.written(FILE, 0, 100)
    assert not short


@given(RANGES, st.integers(1, 10))
def test_what_was_written_after_all_in_order_lacks_no_more(lacking: tuple[int, int], piece: int) -> None:
    short = ShortWrites()
    short.lacks(FILE, *lacking, errno.ENOSPC)
    for begin in range(*lacking, piece):
        assert short
        short.written(FILE, begin, begin + piece)
    assert not short


def test_it_is_told_once_and_of_each_file() -> None:
    short = ShortWrites()
    short.lacks(FILE, 0, 5, errno.ENOSPC)
    short.lacks(FILE, 9, 10, errno.EDQUOT)
    assert short.tell(OTHER) is None
    assert short.tell(FILE) == errno.EDQUOT
    assert short.tell(FILE) is None
    assert not short
