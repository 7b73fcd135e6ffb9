"""Which record occupies which slots: records fill them, retire when they have finished, and others
refill them.

The device always works at one full shape. New records begin together, as many as the slots hold;
they then wait, begun, until records that have finished make room. Since every row keeps its own
clock and its own random numbers, a record's result does not depend on when it is let in or on who
else is there.
"""

import collections
import contextlib
import itertools
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np
import tensorflow as tf

from vaefill.model.config import SamplerConfig
from vaefill.model.engine import chain, stopping
from vaefill.model.samplers.base import Kernel, rows_of_records
from vaefill.model.samplers.scouts import Scouts
from vaefill.model.vae import VAE

_EMPTY = -1
_Entry = TypeVar("_Entry")


class Records(NamedTuple):
    """What the chains read of N records."""

    keys: np.ndarray  # [N, 2] uint32
    x: np.ndarray  # [N, D] float32 on the model's scale, 0 where missing
    observed: np.ndarray  # [N, D] bool

    def take(self, chosen: np.ndarray, size: int) -> "Records":
        """Some records, padded to `size` with records of key 0 of which nothing is known."""
        return Records(*(pad(field[chosen], size) for field in self))


class Finished(NamedTuple):
    """What the chains of one record leave: P rows, T kept sweeps."""

    index: int  # type: ignore[assignment]  # among the records; it hides `tuple.index`
    trace: stopping.Trace
    verdict: stopping.Verdict
    mean: np.ndarray  # [D] float32 of the values given x_obs, on the model's scale
    variance: np.ndarray  # [D] float32
    acceptance: float  # mean acceptance probability over kept sweeps
    num_non_finite: int


class Waiting:
    """Records that wait: for their chains to begin, and then for a place. Threads may share it."""

    def __init__(self, records: Iterable[int]):
        self.new = collections.deque(records)
        # (record, place in `fresh`, fresh)
        self.begun: collections.deque[tuple[int, int, chain.Chains]] = collections.deque()

    def __bool__(self) -> bool:
        return bool(self.new or self.begun)


def _take(queue: collections.deque[_Entry], most: int) -> list[_Entry]:
    """The first entries of a queue that others may take from at the same time."""
    taken: list[_Entry] = []
    with contextlib.suppress(IndexError):  # it is empty: to ask before would be no answer
        while len(taken) < most:
            taken.append(queue.popleft())
    return taken


class Slots:
    """Runs the chains of any number of records through the slots."""

    def __init__(self, vae: VAE, kernel: Kernel, config: SamplerConfig):
        self.rows_per_record = config.rows_per_record
        self.num_places = config.slots // self.rows_per_record
        self.schedule = chain.Schedule.of(config)
        self.occupied, self.passed = 0, 0  # places times blocks: with a record in them, and all
        self._counting = threading.Lock()
        self._latent_size, self._likelihood = vae.latent_size, vae.likelihood
        self._examine = stopping.StoppingRule(config, kernel.draws, self.schedule.max_kept)
        self._check_points = stopping.check_points(config, kernel.draws, self.schedule.max_kept)
        schedule, per_record = self.schedule, self.rows_per_record
        self._begin = tf.function(
            lambda keys, x, observed: chain.begin(
                vae, kernel, rows_of_records(keys, x, observed, per_record), schedule
            ),
            autograph=False,
        )
        self._advance = tf.function(
            lambda chains, kept: chain.advance(vae, kernel, chains, kept, schedule, stopping.BLOCK),
            jit_compile=chain.as_one_program(),
            autograph=False,
        )

    def compile(self, num_values: int) -> None:
        """Traces and compiles the device programs on records of which nothing is known, for those
        who time them.
        """
        size = self.num_places
        unknown = Records(
            np.zeros((0, 2), np.uint32),
            *(np.zeros((0, num_values), kind) for kind in (np.float32, bool)),
        )
        chains = self._begin(*(tf.constant(field) for field in unknown.take(np.arange(0), size)))
        chains = chain.select(chains, chains, self._of_rows(np.arange(size)))
        self._advance(chains, tf.zeros([size * self.rows_per_record], tf.int32))

    def run(self, records: Records, waiting: "Waiting | None" = None) -> Iterator[list[Finished]]:
        """Runs records, all or those that are waiting; several runs side by side may share what is
        waiting.

        Yields:
            After every device call the records that it has finished, most often none.
        """
        waiting = Waiting(range(len(records.keys))) if waiting is None else waiting
        place_of = np.full(self.num_places, _EMPTY)
        kept = np.zeros(self.num_places, np.int32)
        traces = self._empty_traces()
        running = None
        while waiting or (place_of != _EMPTY).any():
            while waiting and (place_of == _EMPTY).any():
                if self._begin_some(records, waiting):
                    yield []
                running = self._let_in(waiting, place_of, kept, running)
            if (place_of == _EMPTY).all():  # others took all that was waiting
                continue
            running, block = self._advance(
                running, tf.constant(np.repeat(kept, self.rows_per_record))
            )
            self._record(traces, kept, block)
            kept = np.minimum(kept + stopping.BLOCK, self.schedule.max_kept).astype(np.int32)
            with self._counting:
                self.occupied += int((place_of != _EMPTY).sum())
                self.passed += self.num_places
            finished = []
            for place, verdict in self._examined(traces, running.scouts, place_of, kept):
                finished.append(
                    self._finish(
                        place_of[place], place, kept[place], traces, running.moments, verdict
                    )
                )
                place_of[place] = _EMPTY
            yield finished

    def _begin_some(self, records: Records, waiting: Waiting) -> bool:
        """Begins the chains of the next records, unless some that have begun still wait; whether
        the device worked.
        """
        if waiting.begun or not (starting := _take(waiting.new, self.num_places)):
            return False
        fresh = self._begin(
            *(tf.constant(field) for field in records.take(np.array(starting), self.num_places))
        )
        waiting.begun.extend((index, origin, fresh) for origin, index in enumerate(starting))
        return True

    def _let_in(
        self, waiting: Waiting, place_of: np.ndarray, kept: np.ndarray, running: chain.Chains | None
    ) -> chain.Chains | None:
        """Moves records that wait, begun, to empty places, whose entries in `place_of` and `kept`
        it sets.
        """
        places = np.flatnonzero(place_of == _EMPTY)
        let_in = zip(places, _take(waiting.begun, len(places)))
        for _, together in itertools.groupby(let_in, key=lambda pair: id(pair[1][2])):
            source = np.full(self.num_places, _EMPTY)
            for place, (index, origin, fresh) in together:  # noqa: B007
                place_of[place], source[place], kept[place] = index, origin, 0
            if running is None:
                running = fresh
            taken = np.flatnonzero(source != _EMPTY)
            if running is not fresh or (source[taken] != taken).any():
                running = chain.select(running, fresh, self._of_rows(source))
        return running

    def _empty_traces(self) -> stopping.Trace:
        """Room for the traces of all places: [places, P, T, ...]."""
        room = (self.num_places, self.rows_per_record, self.schedule.max_kept)
        return stopping.Trace(
            np.zeros((*room, self._latent_size), np.float32),
            *(np.zeros(room, np.float32) for _ in range(3)),
        )

    def _of_rows(self, places: np.ndarray) -> tf.Tensor:
        """Indices of places -> indices of their rows, int32; of none, negative numbers."""
        rows = places[:, np.newaxis] * self.rows_per_record + np.arange(self.rows_per_record)
        return tf.constant(rows.ravel().astype(np.int32))

    def _record(self, traces: stopping.Trace, kept: np.ndarray, block: chain.Trace) -> None:
        """Writes a block [B, N, ...] where each place's clock stands."""
        for whole, part in zip(traces, block):
            by_row = np.moveaxis(part.numpy(), 0, 1)
            by_place = by_row.reshape(self.num_places, self.rows_per_record, *by_row.shape[1:])
            for place, start in enumerate(kept):
                end = min(start + stopping.BLOCK, self.schedule.max_kept)
                whole[place, :, start:end] = by_place[place, :, : end - start]

    def _examined(
        self, traces: stopping.Trace, scouts: Scouts, place_of: np.ndarray, kept: np.ndarray
    ) -> Iterator[tuple[int, stopping.Verdict]]:
        """Places whose records have finished."""
        ends = [field.numpy().reshape(self.num_places, -1, *field.shape[2:]) for field in scouts]
        for point in self._check_points:
            places = np.flatnonzero((place_of != _EMPTY) & (kept == point)).tolist()
            if places:
                found = [stopping.Scouted(*(field[place] for field in ends)) for place in places]
                verdicts = self._examine([_first(traces, place, point) for place in places], found)
                yield from (
                    (place, verdict) for place, verdict in zip(places, verdicts) if verdict.finished
                )

    def _finish(
        self,
        index: int,
        place: int,
        num_kept: int,
        traces: stopping.Trace,
        moments: chain.Moments,
        verdict: stopping.Verdict,
    ) -> Finished:
        rows = slice(place * self.rows_per_record, (place + 1) * self.rows_per_record)
        own = chain.Moments(*(field[rows].numpy() for field in moments))
        shares = np.exp(own.log_total - own.log_total.max(), dtype=np.float64)
        shares = (shares / shares.sum())[:, np.newaxis]
        mean = (shares * own.mean).sum(axis=0)
        of_rows = chain.variance_of(self._likelihood, own)
        variance = (shares * (of_rows + (own.mean - mean) ** 2)).sum(axis=0)
        trace = stopping.Trace(*(field.copy() for field in _first(traces, place, num_kept)))
        return Finished(
            int(index),
            trace,
            verdict,
            mean.astype(np.float32),
            variance.astype(np.float32),
            float(own.acceptance.mean(dtype=np.float64) / num_kept),
            int(own.non_finite.sum()),
        )


def _first(traces: stopping.Trace, place: int, num_kept: int) -> stopping.Trace:
    return stopping.Trace(*(field[place, :, :num_kept] for field in traces))


def pad(array: np.ndarray, size: int) -> np.ndarray:
    """[n, ...] -> [size, ...], filled up with zeros."""
    return np.pad(array, [(0, size - len(array))] + [(0, 0)] * (array.ndim - 1))
