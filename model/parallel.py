"""Lanes: device programs that run side by side on the cores of one machine, each in a thread of its own.

Between two matrix products a program is many small operations, which several cores cannot share well: of two cores,
one for each of two programs does up to a half more than both for one. And while one lane looks at its records the
cores of the others work. Which lane a record runs in does not show in its result: all run the same program.
"""

import contextlib
import ctypes
import os
import platform
import queue
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

import tensorflow as tf

_T = TypeVar("_T")
_MOST = 8  # with more cores than that a lane has several: more lanes would leave few records for each
_ARENA_MAX, _HEAPS = -8, 2  # glibc's M_ARENA_MAX, and the heaps that all threads share
_LOOK_AROUND = 0.5  # seconds between two looks at whether somebody is still there to take what a lane has made


def share_cores() -> None:
    """Prepares a process that has done nothing yet with TensorFlow for lanes.

    Where TensorFlow is at work already, where the user has set its threads, and on a GPU, there will be one lane.
    With glibc all threads of the process share two heaps from then on, unless MALLOC_ARENA_MAX says how many.
    """
    if platform.libc_ver()[0] == "glibc" and "MALLOC_ARENA_MAX" not in os.environ:
        # Or the threads of batch after batch would take heaps of their own, and leave them behind, up to eight a core.
        ctypes.CDLL(None).mallopt(_ARENA_MAX, _HEAPS)
    if "TF_NUM_INTRAOP_THREADS" in os.environ or tf.config.list_physical_devices("GPU"):
        return
    with contextlib.suppress(RuntimeError):  # too late
        tf.config.threading.set_intra_op_parallelism_threads(max(1, (os.cpu_count() or 1) // _MOST))


def available() -> int:
    """The lanes that this process has cores for; 1 where TensorFlow was left to use all of them for one operation."""
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    if not threads or tf.config.list_physical_devices("GPU"):
        return 1
    return max(1, min(_MOST, (os.cpu_count() or 1) // threads))


def side_by_side(iterators: list[Iterator[_T]]) -> Iterator[_T]:
    """What iterators yield, as it comes, each in a thread of its own; of a single one, in this thread.

    Raises:
        Whatever one of them raises. The others then end after their next step, as they do when this is closed.
    """
    if len(iterators) == 1:
        yield from iterators[0]
        return
    made: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=len(iterators))
    abandoned = threading.Event()

    def hand_over(kind: str, value: Any) -> None:
        while not abandoned.is_set():
            try:
                return made.put((kind, value), timeout=_LOOK_AROUND)
            except queue.Full:
                continue

    def work(iterator: Iterator[_T]) -> None:
        try:
            for step in iterator:
                hand_over("step", step)
                if abandoned.is_set():
                    return
            hand_over("end", None)
        except BaseException as error:  # the consumer's to handle
            hand_over("error", error)

    for index, iterator in enumerate(iterators):
        threading.Thread(target=work, args=(iterator,), name=f"lane-{index}", daemon=True).start()
    try:
        num_left = len(iterators)
        while num_left:
            kind, value = made.get()
            if kind == "error":
                raise value
            if kind == "end":
                num_left -= 1
            else:
                yield value
    finally:
        abandoned.set()
