"""The RunInference `ModelHandler` around `vaefill.model.imputer` and
`vaefill.model.ensemble_imputer`.
"""

import functools
import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.ml.inference.base import ModelHandler

from vaefill import counters, logs
from vaefill.counters import count
from vaefill.isolation import DeviceError, isolate_failures, one_line
from vaefill.model import ensembles
from vaefill.model.config import SamplerConfig
from vaefill.model.ensemble_imputer import EnsembleImputer, imputer_for
from vaefill.model.errors import ModelError
from vaefill.model.imputer import Imputed, Imputer
from vaefill.model.parallel import StuckError, share_cores, with_timeout
from vaefill.model.preprocessing import Preprocessor
from vaefill.progress import Progress
from vaefill.records.imputed import encode_imputed
from vaefill.records.record import DIAGNOSTICS, ImputedRecord, MaskedRecord, Reason, Schema
from vaefill.store.dead_letters import DEAD
from vaefill.store.items import Item
from vaefill.store.resume import ResumeCache
from vaefill.store.spill import Place
from vaefill.store.tfrecord import DeadLetter, Frame

_ONE_AT_A_TIME = threading.Lock()  # of a process's threads: each wants all of the device
_DEVICE_BATCHES = 64  # of records at once: the last ones of a batch leave slots idle
_BATCH_BYTES = 256 << 20  # but no more than so many, with their results

Read = tuple[Frame, MaskedRecord]
AnyImputer = Imputer | EnsembleImputer


class ImputationHandler(ModelHandler[Read, Item | DeadLetter, AnyImputer]):
    """Imputes batches of masked records, and leaves the results where the next attempt finds them.

    Args:
        model: the directory of the model or the ensemble, readable by every worker.
        fingerprint: of that model; a worker that finds another refuses to work.
        sampler: the sampler's configuration.
        preprocessor: of the model's likelihood, with the run's seed.
        schema: of the records.
        computed: directory of what was computed before, indexed, and of what is computed now.
        call_seconds: how long a call of the device may take.
        progress: what says how far it is, by default every ten seconds.
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
        progress: Progress | None = None,
    ):
        super().__init__()
        self._model = model
        self._fingerprint = fingerprint
        self._sampler = sampler
        self._preprocessor = preprocessor
        self._schema = schema
        self._computed = ResumeCache(computed)
        self._call_seconds = call_seconds
        self._progress = progress or Progress()

    def load_model(self) -> AnyImputer:
        """Loads the model, once a process.

        Raises:
            ModelError: it is not the one that the job was started with.
        """
        logs.start_worker()
        share_cores()
        loaded = ensembles.load(self._model)
        if loaded.fingerprint != self._fingerprint:
            raise ModelError(f"{self._model} has changed since the job was started")
        see = self._preprocessor
        return imputer_for(loaded, self._sampler, see.binarize, see.seed)

    def run_inference(
        self,
        batch: Sequence[Read],
        model: AnyImputer,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterable[Item | DeadLetter]:
        """Imputes a batch, save what an earlier attempt has imputed.

        A record's result depends neither on the others nor on what failed meanwhile.

        Args:
            batch: frames and their records.
            model: see `load_model`.
            inference_args: ignored.

        Raises:
            DeviceError: the device is to blame, or most likely so.
            OSError: of the directory of what is computed.
        """
        found: list[Item | DeadLetter] = []
        left: list[Read] = []
        for frame, record in batch:
            place = self._computed.find(record.content_hash)
            if place is None:
                left.append((frame, record))
            else:
                found.append(_item(frame, record, place))
        count("records_reused", len(found))
        self._progress.start()
        with _ONE_AT_A_TIME:
            attempt = functools.partial(self._impute, model)
            done, culprits = isolate_failures(left, attempt, any_success=bool(found))
        self._computed.flush()
        found += [_item(frame, record, place) for (frame, record), place in done]
        for (frame, record), error in culprits:
            found.append(DeadLetter(frame, Reason.NOT_IMPUTED, one_line(error), record.id, 0))
        return found

    def _impute(self, model: AnyImputer, reads: Sequence[Read]) -> Iterator[tuple[int, Place]]:
        """Imputes records; yields where each one among them has its result, as they are done."""
        records = [record for _, record in reads]
        for places, results in self._calls(records, model):
            for index, place in enumerate(places):
                yield place, self._keep(records[place], results, index)
            if len(places):
                self._computed.flush()  # a kill loses what the device is at and what waits for it
                self._report(results)

    def _calls(
        self,
        records: Sequence[MaskedRecord],
        model: AnyImputer,
    ) -> Iterator[tuple[np.ndarray, Imputed]]:
        """What the device hands over, with its own kinds of trouble told from the records'."""
        try:
            calls = model.stream(
                np.stack([record.image for record in records]),
                np.stack([record.observed for record in records]),
                [record.id for record in records],
                [record.truth if record.truth_known.all() else None for record in records],
            )
            yield from with_timeout(calls, self._call_seconds)
        except (tf.errors.ResourceExhaustedError, MemoryError):
            raise DeviceError(_out_of_memory(self._sampler)) from None
        except StuckError as error:
            advice = "if it is only slow, raise limits.device_call_seconds"
            raise DeviceError(f"a call of the device has given {error}; {advice}") from None

    def _keep(self, record: MaskedRecord, results: Imputed, index: int) -> Place:
        """Puts a record's result where it is found again."""
        imputed = ImputedRecord(
            masked=record,
            imputations=results.imputations[index],
            mean=results.mean[index],
            stddev=results.stddev[index],
            diagnostics={name: getattr(results, name)[index] for name in DIAGNOSTICS},
        )
        return self._computed.add(record.content_hash, encode_imputed(imputed, self._schema))

    def _report(self, results: Imputed) -> None:
        num = len(results.converged)
        num_converged = int(results.converged.sum())
        count("records_imputed", num)
        count("records_converged", num_converged)
        count("chain_sweeps", results.num_sweeps.sum() * self._sampler.num_chains)
        count("gradients", results.num_network_passes.sum())
        self._progress.add(num, num_converged)

    def batch_elements_kwargs(self) -> dict[str, Any]:
        """Batches of a fixed size; left alone, Beam would choose it by the clock."""
        size = batch_size(self._sampler, self._schema)
        weigh = functools.partial(weight, size=size)
        return {"min_batch_size": size, "max_batch_size": size, "element_size_fn": weigh}

    def get_num_bytes(self, batch: Sequence[Read]) -> int:
        """The size of a batch's values; Beam's default pickles the batch to find out."""
        return sum(record.image.nbytes + record.observed.nbytes for _, record in batch)

    def get_metrics_namespace(self) -> str:
        """The namespace of RunInference's metrics."""
        return counters.NAMESPACE


def batch_size(sampler: SamplerConfig, schema: Schema, most_bytes: int = _BATCH_BYTES) -> int:
    """Records of a batch: as many as fill the device's slots many times, if they fit into memory.

    Args:
        sampler: which says how many records the slots hold.
        schema: of the records.
        most_bytes: of a batch with its results, unless it takes more to fill the slots once.
    """
    places = sampler.slots // sampler.rows_per_record
    # Image, mask and truth, the imputations, mean and standard deviation.
    of_value = (3 + sampler.num_imputations) * schema.dtype.itemsize + 8
    of_record = of_value * math.prod(schema.shape)
    return places * max(1, min(_DEVICE_BATCHES, most_bytes // (places * of_record)))


def weight(read: Read, size: int, most_bytes: int = _BATCH_BYTES) -> int:
    """As how many records of a batch one counts: as 1, or more if it has much to be handed on.

    Args:
        read: a frame and its record.
        size: of a batch, in records that count as 1.
        most_bytes: of what a batch's records hand on, which is in memory twice: as it was read, and
            in the record.
    """
    _, record = read
    carried = (len(value) for value in record.carried.values() if isinstance(value, bytes))
    handed_on = len(record.extra) + sum(carried)
    return min(size, 1 + 2 * handed_on * size // most_bytes)


def _item(frame: Frame, record: MaskedRecord, place: Place) -> Item:
    return Item(record.id, record.content_hash, frame.source, place)


def _out_of_memory(sampler: SamplerConfig) -> str:
    """What to do about it."""
    slots = sampler.slots
    unit = sampler.slots_unit
    smaller = max(unit, slots // 2 // unit * unit)
    said = f"out of memory with sampler.slots={slots}"
    if smaller == slots:
        return f"{said}, the fewest that a record fits in; it takes more memory"
    return (
        f"{said}: run again with --set sampler.slots={smaller} "
        "(they are part of a result's identity, and so never change by themselves)"
    )


class SplitDeadLetters(beam.DoFn):
    """Items, and dead letters under `DEAD`."""

    def process(self, found: Item | DeadLetter) -> Iterator[Any]:
        yield beam.pvalue.TaggedOutput(DEAD, found) if isinstance(found, DeadLetter) else found
