"""The RunInference `ModelHandler` around `vaefill.model.imputer`."""

import logging
import math
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.ml.inference.base import ModelHandler

from vaefill.model import checkpoints
from vaefill.model.config import SamplerConfig
from vaefill.model.errors import ModelError
from vaefill.model.imputer import Imputed, Imputer
from vaefill.model.parallel import share_cores
from vaefill.model.preprocessing import Preprocessor
from vaefill.pipeline import counters, logs
from vaefill.pipeline.counters import count
from vaefill.pipeline.records.record import (
    DIAGNOSTICS,
    ImputedRecord,
    MaskedRecord,
    Reason,
    Schema,
    content_hash,
    encode_imputed,
)
from vaefill.pipeline.store.dead_letters import DEAD
from vaefill.pipeline.store.resume import ResumeCache
from vaefill.pipeline.store.sinks import Item
from vaefill.pipeline.store.tfrecord import DeadLetter, Frame
from vaefill.pipeline.watchdog import StuckError, within

_LOGGER = logging.getLogger("vaefill.impute")
_ONE_AT_A_TIME = threading.Lock()  # of a process's threads; each device program wants all of the device
_DEVICE_BATCHES = 64  # of records that RunInference hands over at once: the last ones of a batch leave slots idle
_BATCH_BYTES = 256 << 20  # but no more than so many, with their results
_PROGRESS_SECONDS = 10  # between two lines of progress, or more
_MOST_CULPRITS = 8  # if more records than this fail one by one, and none succeeds, it is not the records

Read = tuple[Frame, MaskedRecord]


class DeviceError(RuntimeError):
    """Something that no record is to blame for, and that another attempt would meet again."""


class ImputationHandler(ModelHandler[Read, Item | DeadLetter, Imputer]):
    """Imputes batches of masked records, and leaves the results where the next attempt finds them.

    Args:
        model: the model directory, readable by every worker.
        fingerprint: of that model; a worker that finds another refuses to work.
        sampler: the sampler's configuration.
        preprocessor: of the model's likelihood, with the run's seed.
        schema: of the records.
        computed: directory of what was computed before, indexed, and of what is computed now.
        call_seconds: how long a call of the device may take.
    """

    def __init__(
        self,
        model: str,
        fingerprint: str,
        sampler: SamplerConfig,
        preprocessor: Preprocessor,
        schema: Schema,
        computed: str,
        call_seconds: float,
    ):
        super().__init__()
        self._model, self._fingerprint = model, fingerprint
        self._sampler, self._preprocessor, self._schema = sampler, preprocessor, schema
        self._computed, self._call_seconds = ResumeCache(computed), call_seconds
        self._started, self._next_line, self._done, self._converged = None, 0.0, 0, 0

    def load_model(self) -> Imputer:
        """Loads the model and checks that it is the one the job was started with."""
        logs.start_worker()
        share_cores()
        loaded = checkpoints.load(self._model)
        if loaded.fingerprint != self._fingerprint:
            raise ModelError(f"{self._model} has changed since the job was started")
        return Imputer(loaded.vae, self._sampler, self._preprocessor, loaded.calibration)

    def run_inference(
        self, batch: Sequence[Read], model: Imputer, inference_args: dict[str, Any] | None = None
    ) -> Iterable[Item | DeadLetter]:
        """Imputes a batch; a record's result does not depend on the others, nor on what failed meanwhile."""
        found, left = [], []
        for frame, record in batch:
            place = self._computed.find(content_hash(record, self._schema))
            if place is None:
                left.append((frame, record))
            else:
                found.append(Item(record.id, place, frame))
        count("records_reused", len(found))
        self._started = self._started or time.monotonic()
        with _ONE_AT_A_TIME:
            found += self._impute(left, model, _FailureBudget(any_success=bool(found)))
        self._computed.flush()
        return found

    def _impute(self, reads: Sequence[Read], model: Imputer, budget: "_FailureBudget") -> list[Item | DeadLetter]:
        """Imputes records; where that fails halves what is left, until the budget are alone."""
        done, found, records = np.zeros(len(reads), np.bool_), [], [record for _, record in reads]
        try:
            for places, results in self._calls(records, model):
                for index, place in enumerate(places):
                    frame, record = reads[place]
                    found.append(Item(record.id, self._keep(record, results, index), frame))
                    done[place] = budget.any_success = True
                self._report_progress(results)
            if not done.all():
                raise RuntimeError(f"{np.count_nonzero(~done)} of {len(reads)} records did not come back")
        except (DeviceError, OSError):
            raise
        except Exception as error:
            left = [reads[place] for place in np.flatnonzero(~done)]
            if not left:
                raise
            if len(reads) == 1:
                budget.add(error)
                (frame, record), *_ = left
                return [DeadLetter(frame, Reason.NOT_IMPUTED, _one_line(error), record.id, 0)]
            _LOGGER.warning("a batch failed, trying parts of the %d records left: %s", len(left), _one_line(error))
            half = (len(left) + 1) // 2
            for part in filter(None, (left[:half], left[half:])):
                found += self._impute(part, model, budget)
        return found

    def _calls(self, records: Sequence[MaskedRecord], model: Imputer) -> Iterator[tuple[np.ndarray, Imputed]]:
        """What the device hands over, with its own kinds of trouble told from the records'."""
        if not records:
            return
        try:
            calls = model.stream(
                np.stack([record.image for record in records]),
                np.stack([record.observed for record in records]),
                [record.id for record in records],
                [record.truth for record in records],
            )
            yield from within(calls, self._call_seconds)
        except (tf.errors.ResourceExhaustedError, MemoryError):
            raise DeviceError(self._out_of_memory()) from None
        except StuckError as error:
            raise DeviceError(
                f"a call of the device has given {error}; if it is only slow, raise limits.device_call_seconds"
            ) from None

    def _out_of_memory(self) -> str:
        slots = self._sampler.slots
        unit = self._sampler.slots_unit
        smaller = max(unit, slots // 2 // unit * unit)
        if smaller == slots:
            return f"out of memory with sampler.slots={slots}, the fewest that a record fits in; it takes more memory"
        return (
            f"out of memory with sampler.slots={slots}: run again with --set sampler.slots={smaller} "
            "(they are part of a result's identity, and so never change by themselves)"
        )

    def _keep(self, record: MaskedRecord, results: Imputed, index: int):
        """Puts a record's result where it is found again."""
        imputed = ImputedRecord(
            masked=record,
            imputations=results.imputations[index],
            mean=results.mean[index],
            stddev=results.stddev[index],
            diagnostics={name: getattr(results, name)[index] for name in DIAGNOSTICS},
        )
        return self._computed.add(content_hash(record, self._schema), encode_imputed(imputed, self._schema))

    def _report_progress(self, results: Imputed) -> None:
        num = len(results.converged)
        if not num:
            return
        self._computed.flush()  # a kill loses what the device is at and what waits to be handed over
        for name, number in (
            ("records_imputed", num),
            ("records_converged", results.converged.sum()),
            ("chain_sweeps", results.num_sweeps.sum() * self._sampler.num_chains),
            ("gradients", results.num_network_passes.sum()),
        ):
            count(name, number)
        self._done += num
        self._converged += int(results.converged.sum())
        now = time.monotonic()
        if now < self._next_line:
            return
        self._next_line = now + _PROGRESS_SECONDS
        rate, share = self._done / (now - self._started), self._converged / self._done
        _LOGGER.info(
            "imputed %s records, %.1f %% of them converged, %.1f a second",
            f"{self._done:,}",
            100 * share,
            rate,
            extra={"records": self._done, "converged_fraction": share, "records_per_second": rate},
        )

    def batch_elements_kwargs(self) -> dict[str, Any]:
        """Batches of a fixed size; left alone, Beam would choose it by the clock."""
        places = self._sampler.slots // self._sampler.rows_per_record
        # Image, mask and truth, the imputations, mean and standard deviation.
        of_value = (3 + self._sampler.num_imputations) * self._schema.dtype.itemsize + 8
        of_record = of_value * math.prod(self._schema.shape)
        size = places * max(1, min(_DEVICE_BATCHES, _BATCH_BYTES // (places * of_record)))
        return {"min_batch_size": size, "max_batch_size": size}

    def get_num_bytes(self, batch: Sequence[Read]) -> int:
        """The size of a batch's values; Beam's default pickles the batch to find out."""
        return sum(record.image.nbytes + record.observed.nbytes for _, record in batch)

    def get_metrics_namespace(self) -> str:
        """The namespace of RunInference's metrics."""
        return counters.NAMESPACE


class _FailureBudget:
    """The records of a batch that could not be imputed even alone."""

    def __init__(self, any_success: bool):
        self.any_success, self._num = any_success, 0

    def add(self, error: Exception) -> None:
        """Counts one more.

        Raises:
            DeviceError: they are too many to be the cause.
        """
        self._num += 1
        if self._num > _MOST_CULPRITS and not self.any_success:
            raise DeviceError(f"{self._num} records failed one by one, the last: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


class SplitDeadLetters(beam.DoFn):
    """Items, and dead letters under `DEAD`."""

    def process(self, found: Item | DeadLetter):
        yield beam.pvalue.TaggedOutput(DEAD, found) if isinstance(found, DeadLetter) else found
