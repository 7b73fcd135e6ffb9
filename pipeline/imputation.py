"""The RunInference `ModelHandler` around `model.imputer`."""

import logging
import math
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from apache_beam.ml.inference.base import ModelHandler

from model import checkpoints
from model.config import SamplerConfig
from model.imputer import Imputer
from model.likelihoods import LIKELIHOODS
from pipeline.record import DIAGNOSTICS, ImputedRecord, MaskedRecord

_LOGGER = logging.getLogger("vaefill.impute")
_ONE_AT_A_TIME = threading.Lock()  # of a process's threads; each device program wants all of the device
_DEVICE_BATCHES = 32  # of records that RunInference hands over at once: the last ones of a batch leave slots idle
_BATCH_BYTES = 256 << 20  # but no more than so many, with their results


class ImputationHandler(ModelHandler[MaskedRecord, ImputedRecord, Imputer]):
    """Imputes batches of masked records.

    Args:
        model: the model directory, readable by every worker.
        fingerprint: of that model; a worker that finds another refuses to work.
        sampler: the sampler's configuration.
        seed: the run's seed.
        binarize: see `data.binarize`.
    """

    def __init__(self, model: str, fingerprint: str, sampler: SamplerConfig, seed: int, binarize: str):
        super().__init__()
        self._model, self._fingerprint = model, fingerprint
        self._sampler, self._seed, self._binarize = sampler, seed, binarize
        self._started, self._done, self._converged = None, 0, 0

    def load_model(self) -> Imputer:
        """Loads the model and checks that it is the one the job was started with."""
        loaded = checkpoints.load(self._model)
        if loaded.fingerprint != self._fingerprint:
            raise checkpoints.ModelError(f"{self._model} has changed since the job was started")
        return Imputer(loaded.vae, self._sampler, self._seed, self._binarize, loaded.reference)

    def run_inference(
        self, batch: Sequence[MaskedRecord], model: Imputer, inference_args: dict[str, Any] | None = None
    ) -> Iterable[ImputedRecord]:
        """Imputes a batch; a record's result does not depend on the others."""
        self._started = self._started or time.monotonic()
        with _ONE_AT_A_TIME:
            results = model(
                np.stack([record.image for record in batch]),
                np.stack([record.observed for record in batch]),
                [record.id for record in batch],
                [record.truth for record in batch],
                self._report_progress,
            )
        for index, record in enumerate(batch):
            yield ImputedRecord(
                masked=record,
                imputations=results.imputations[index],
                mean=results.mean[index],
                stddev=results.stddev[index],
                diagnostics={name: getattr(results, name)[index] for name in DIAGNOSTICS},
            )

    def _report_progress(self, converged: np.ndarray) -> None:
        if not len(converged):
            return
        self._done += len(converged)
        self._converged += int(converged.sum())
        seconds = time.monotonic() - self._started
        _LOGGER.info(
            "imputed %s records, %.1f %% of them converged, %.1f a second",
            f"{self._done:,}",
            100 * self._converged / self._done,
            self._done / seconds,
        )

    def batch_elements_kwargs(self) -> dict[str, Any]:
        """Batches of a fixed size; left alone, Beam would choose it by the clock."""
        places = self._sampler.slots // self._sampler.rows_per_record
        description = checkpoints.describe(self._model)
        item = LIKELIHOODS[description.model.likelihood]().dtype().itemsize
        # Image, mask and truth, the imputations, mean and standard deviation.
        of_value = (3 + self._sampler.num_imputations) * item + 8
        of_record = of_value * math.prod(description.data_shape)
        size = places * max(1, min(_DEVICE_BATCHES, _BATCH_BYTES // (places * of_record)))
        return {"min_batch_size": size, "max_batch_size": size}

    def get_num_bytes(self, batch: Sequence[MaskedRecord]) -> int:
        """The size of a batch's values; Beam's default pickles the batch to find out."""
        return sum(record.image.nbytes + record.observed.nbytes for record in batch)

    def get_metrics_namespace(self) -> str:
        """The namespace of RunInference's metrics."""
        return "vaefill"
