"""A time limit for each step of an iterator, such as the calls of a device."""

import queue
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

_T = TypeVar("_T")


class StuckError(RuntimeError):
    """A step that took longer than it may."""


def within(steps: Iterator[_T], seconds: float) -> Iterator[_T]:
    """Hands on what an iterator yields, as long as no step takes longer than `seconds`.

    The iterator runs in a thread of its own, one step ahead at most. Nothing can stop a step that is stuck: its
    thread is left behind, and ends with the process.

    Raises:
        StuckError: a step took too long.
        Whatever the iterator raises.
    """
    handed: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=1)
    abandoned = threading.Event()

    def produce() -> None:
        try:
            for step in steps:
                handed.put(("step", step))
                if abandoned.is_set():
                    return
            handed.put(("end", None))
        except BaseException as error:  # the consumer's to handle
            handed.put(("error", error))

    threading.Thread(target=produce, name="steps", daemon=True).start()
    try:
        while True:
            try:
                kind, value = handed.get(timeout=seconds)
            except queue.Empty:
                raise StuckError(f"no answer for {seconds:g} s") from None
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        abandoned.set()
        while not handed.empty():
            handed.get()
