"""Steps are handed on in order and in time, or the wait ends."""

import threading
import time

import pytest

from vaefill.pipeline.watchdog import StuckError, within


def test_steps_come_in_order():
    assert list(within(iter(range(100)), 10.0)) == list(range(100))
    assert list(within(iter([]), 10.0)) == []


def test_an_error_is_the_consumers():
    def steps():
        yield 1
        raise KeyError("mine")

    found = within(steps(), 10.0)
    assert next(found) == 1
    with pytest.raises(KeyError, match="mine"):
        next(found)


def test_a_step_that_takes_too_long_ends_the_wait():
    release = threading.Event()

    def steps():
        yield 1
        release.wait(60)

    found, began = within(steps(), 0.2), time.monotonic()
    assert next(found) == 1
    with pytest.raises(StuckError, match="no answer for 0.2 s"):
        next(found)
    assert time.monotonic() - began < 10
    release.set()


def test_who_stops_reading_leaves_no_thread_behind():
    before = threading.active_count()
    for _ in range(5):
        assert next(within(iter(range(1000)), 10.0)) == 0
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before
