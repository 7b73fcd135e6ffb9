"""The matrix products of networks by NumPy alone: the limit of how fast a program that consists of
them can be.

Imports no TensorFlow, beside whose threads NumPy is slower.
"""

import concurrent.futures
import contextlib
import functools
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

Shape = tuple[int, int]  # of a weight matrix


def network_shapes(inputs: int, hidden: Sequence[int], outputs: int) -> list[Shape]:
    """Weight matrices of a stack of Dense layers."""
    widths = [inputs, *hidden, outputs]
    return list(zip(widths, widths[1:]))


@functools.cache
def numpy_products(shapes: tuple[Shape, ...], rows: int) -> Callable[[], Any]:
    """float32 products [rows, inputs] x [inputs, outputs], one of each shape."""
    rng = np.random.default_rng(0)
    factors = [
        (
            rng.normal(size=(rows, first)).astype(np.float32),
            rng.normal(size=(first, second)).astype(np.float32),
        )
        for first, second in shapes
    ]
    return lambda: [left @ right for left, right in factors]


def _repeat(shapes: tuple[Shape, ...], rows: int, times: int) -> int:
    run = numpy_products(shapes, rows)
    return sum(1 for _ in range(times) if run())


@contextlib.contextmanager
def numpy_alone(shapes: Sequence[Shape], rows: int) -> Iterator[Callable[[int], int]]:
    """`numpy_products` in a process of its own: a function that does them so many times, and says
    how many.
    """
    with concurrent.futures.ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        yield lambda times: pool.submit(_repeat, tuple(shapes), rows, times).result()
