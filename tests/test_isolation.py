"""Whatever can be done is done, and culprits are found in few attempts."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaefill import isolation
from vaefill.isolation import MOST_CULPRITS, DeviceError, isolate_failures


class Attempts:
    """Squares numbers; before the first culprit of a batch comes `head_start` others are done."""

    def __init__(self, culprits=(), head_start: int = 0, error: Exception | None = None):
        self._culprits = set(culprits)
        self._head_start = head_start
        self._error = error or ValueError("no such luck")
        self.batches = []

    def __call__(self, items):
        self.batches.append(list(items))
        is_bad = bool(self._culprits & set(items))
        for place in [*range(len(items))][::-1]:
            if is_bad and (items[place] in self._culprits or place < len(items) - self._head_start):
                raise self._error
            yield place, items[place] ** 2


@given(st.integers(0, 60), st.sets(st.integers(0, 59), max_size=MOST_CULPRITS), st.integers(0, 3))
def test_all_but_the_culprits_are_done_once(num, culprits, head_start):
    attempts = Attempts(culprits, head_start)
    found = isolate_failures(range(num), attempts)
    assert sorted(found.done) == [(i, i * i) for i in range(num) if i not in culprits]
    assert sorted(item for item, _ in found.culprits) == sorted(culprits & set(range(num)))
    assert all(str(error) == "no such luck" for _, error in found.culprits)


@pytest.mark.parametrize("culprit", [0, 499, 999])
def test_one_culprit_is_found_by_halving(culprit):
    attempts = Attempts([culprit])
    isolate_failures(range(1000), attempts)
    assert len(attempts.batches) <= 2 * math.ceil(math.log2(1000)) + 1


def test_what_was_done_before_a_failure_is_not_done_again():
    attempts = Attempts([2], head_start=5)
    found = isolate_failures(range(8), attempts)
    assert attempts.batches[:3] == [[*range(8)], [0, 1], [2]]
    assert len(found.done) == 7


def test_an_item_that_does_not_come_back_is_tried_again():
    batches = []

    def forgetful(items):
        batches.append(list(items))
        yield from enumerate(items[: len(items) - 1] if len(batches) == 1 else items)

    assert len(isolate_failures("abc", forgetful).done) == 3 and batches == [["a", "b", "c"], ["c"]]


def test_one_that_never_comes_back_is_a_culprit():
    found = isolate_failures("a", lambda items: iter(()))
    assert str(found.culprits[0][1]) == "1 of 1 records did not come back"


def test_where_every_item_fails_it_is_not_the_items():
    attempts = Attempts(range(1000))
    with pytest.raises(DeviceError, match=f"{MOST_CULPRITS + 1} records failed one by one, .*luck"):
        isolate_failures(range(1000), attempts)
    assert len(attempts.batches) < 30


def test_any_number_may_fail_where_others_have_not():
    found = isolate_failures(range(40), Attempts(range(40)), any_success=True)
    assert len(found.culprits) == 40
    found = isolate_failures(range(41), Attempts(range(40), head_start=1))
    assert len(found.culprits) == 40 and found.done == [(40, 1600)]


@pytest.mark.parametrize("error", [DeviceError("out of memory"), OSError("disk full")])
def test_what_no_item_is_to_blame_for_ends_it_at_once(error):
    attempts = Attempts([3], error=error)
    with pytest.raises(type(error), match=str(error)):
        isolate_failures(range(9), attempts)
    assert len(attempts.batches) == 1


def test_an_error_after_all_are_done_is_nobodys():
    def attempt(items):
        yield from enumerate(items)
        raise KeyError("late")

    with pytest.raises(KeyError, match="late"):
        isolate_failures("ab", attempt)


def test_an_error_is_one_line():
    assert isolation.one_line(ValueError("a\n  b")) == "ValueError: a b"
    assert len(isolation.one_line(ValueError("x" * 999))) == 300
