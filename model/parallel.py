"""Lanes: device programs that run side by side on the cores of one machine, each in a thread of its
own.

Between two matrix products a program is many small operations, which several cores cannot share
well: of two cores, one for each of two programs does up to a half more than both for one. And while
one lane looks at its records the cores of the others work. Which lane a record runs in does not
show in its result: all run the same program.
"""

import contextlib
import ctypes
import math
import os
import pathlib
import platform
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import tensorflow as tf

T = TypeVar("T")
# With more cores than that a lane has several: more lanes would leave few records for each
_MOST = 8
_ARENA_MAX, _HEAPS = -8, 2  # glibc's M_ARENA_MAX, and the heaps that all threads share
_LOOK_AROUND = 0.5  # seconds between two looks at whether anybody still wants what was made


_QUOTAS = "/sys/fs/cgroup"  # where Linux says what control groups may take
_GROUPS = "/proc/self/cgroup"  # and which of them this process is in


class StuckError(RuntimeError):
    """A step that took longer than it may."""


def cores() -> int:
    """The cores that this process may keep busy, at least 1.

    They are those of the machine that its affinity mask allows, as many as the quotas of its
    control groups, such as a container's, pay for; a part of a core counts as one.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min([allowed or 1, *(math.ceil(quota) for quota in _quotas())]))


def _quotas() -> Iterator[float]:
    """The cores that each control group of this process may take, of either version of Linux's."""
    for line in filter(None, _words_of(_GROUPS, "\n")):
        _, kinds, path = line.split(":", 2)
        if kinds and "cpu" not in kinds.split(","):
            continue
        # Within a container the path may be the host's, and the group itself is at the root.
        group = pathlib.PurePosixPath("/", path)
        for place in (group, *group.parents):
            folder = f"{_QUOTAS}{'/cpu' if kinds else ''}{place}"
            if kinds:
                quota = _words_of(f"{folder}/cpu.cfs_quota_us")
                quota += _words_of(f"{folder}/cpu.cfs_period_us")
            else:
                quota = _words_of(f"{folder}/cpu.max")
            with contextlib.suppress(ValueError, ZeroDivisionError):  # "max": there is no quota
                most, period = map(int, quota)
                if most > 0:  # -1 is none, too
                    yield most / period


def _words_of(path: str, separator: str | None = None) -> list[str]:
    """What a file of the kernel, not of ours, says; nothing where it is not there."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip().split(separator)
    except OSError:
        return []


def share_cores() -> None:
    """Prepares a process that has done nothing yet with TensorFlow for lanes.

    Where TensorFlow is at work already, where the user has set its threads, and on a GPU, there
    will be one lane. With glibc all threads of the process share two heaps from then on, unless
    MALLOC_ARENA_MAX says how many.
    """
    if platform.libc_ver()[0] == "glibc" and "MALLOC_ARENA_MAX" not in os.environ:
        # Or the threads of batch after batch would take heaps of their own, and leave them behind,
        # up to eight a core.
        ctypes.CDLL(None).mallopt(_ARENA_MAX, _HEAPS)
    if "TF_NUM_INTRAOP_THREADS" in os.environ or tf.config.list_physical_devices("GPU"):
        return
    with contextlib.suppress(RuntimeError):  # too late
        tf.config.threading.set_intra_op_parallelism_threads(max(1, cores() // _MOST))


def available() -> int:
    """The lanes that this process has cores for; 1 where TensorFlow was left to use all of them for
    one operation.
    """
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    if not threads or tf.config.list_physical_devices("GPU"):
        return 1
    return max(1, min(_MOST, cores() // threads))


def side_by_side(iterators: Sequence[Iterator[T]]) -> Iterator[T]:
    """Hands on what iterators yield, as it comes, each in a thread of its own.

    A single one runs in the thread of the caller. What this raises or who closes it ends the
    iterators after their next step.

    Args:
        iterators: each is left to its thread.

    Raises:
        BaseException: whatever one of them raises.
    """
    if len(iterators) == 1:
        yield from iterators[0]
    else:
        yield from _in_threads(iterators, "lane")


def with_timeout(steps: Iterator[T], seconds: float) -> Iterator[T]:
    """Hands on what an iterator yields, as long as no step takes too long.

    The iterator runs in a thread of its own, one step ahead at most. Nothing can stop a step that
    is stuck: its thread is left behind, and ends with the process.

    Args:
        steps: such as the calls of a device; left to its thread.
        seconds: that a step may take.

    Raises:
        StuckError: a step took longer.
        BaseException: whatever the iterator raises.
    """
    return _in_threads([steps], "steps", seconds)


def _in_threads(
    iterators: Sequence[Iterator[T]],
    name: str,
    seconds: float | None = None,
) -> Iterator[T]:
    """What iterators yield, each in a thread behind a queue that holds a step of each.

    Args:
        iterators: that are to run.
        name: of the threads, before their numbers.
        seconds: to wait for the next step of any of them; None waits for ever.
    """
    made: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=len(iterators))
    abandoned = threading.Event()
    for index, iterator in enumerate(iterators):
        thread = threading.Thread(target=_produce, args=(iterator, made, abandoned), daemon=True)
        thread.name = f"{name}-{index}"
        thread.start()
    try:
        num_left = len(iterators)
        while num_left:
            try:
                kind, value = made.get(timeout=seconds)
            except queue.Empty:
                raise StuckError(f"no answer for {seconds:g} s") from None
            if kind == "error":
                raise value
            if kind == "end":
                num_left -= 1
            else:
                yield value
    finally:
        abandoned.set()


def _produce(iterator: Iterator[Any], made: queue.Queue, abandoned: threading.Event) -> None:
    """Puts the steps of an iterator into a queue, then its end or its error; until abandoned."""

    def hand_over(kind: str, value: Any) -> None:
        while not abandoned.is_set():
            with contextlib.suppress(queue.Full):
                return made.put((kind, value), timeout=_LOOK_AROUND)

    try:
        for step in iterator:
            hand_over("step", step)
            if abandoned.is_set():
                return
        hand_over("end", None)
    except BaseException as error:  # the consumer's to handle
        hand_over("error", error)
