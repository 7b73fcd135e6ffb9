"""The summary of a result: parts that are made with the shards, put together in the shards' order."""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from model import evaluation
from model.config import SamplerConfig
from model.imputer import model_values
from model.likelihoods import LIKELIHOODS
from pipeline import statistics
from pipeline.record import DIAGNOSTICS, HASH_SIZE, ImputedRecord, Schema, content_hash, decode_imputed
from pipeline.sinks import DeadLetterCounts, Layout, write_whole

_ROW_GROUP = 1 << 14  # of records.parquet: some MB at once, and few enough groups to read fast
_QUANTILES_OF = (
    "r_hat",
    "ess_bulk",
    "ess_tail",
    "acceptance_rate",
    "num_sweeps",
    "num_gradients",
    "num_latents",
    "fit_percentile",
    "log_prob_observed",
    "log_prob_observed_error",
    "log_prob_missing",
    "log_prob_missing_error",
    "pareto_k",
)


class Summarizer:
    """Makes the observers that summarise shards.

    Args:
        layout, schema: of the job.
        num_chains: chains of a record.
        likelihood, binarize, seed: what the truth is scored under.
    """

    def __init__(self, layout: Layout, schema: Schema, num_chains: int, likelihood: str, binarize: str, seed: int):
        self.layout, self.schema, self.num_chains = layout, schema, num_chains
        self._likelihood, self._binarize, self._seed = likelihood, binarize, seed

    def __call__(self, shard: int) -> "ShardSummary":
        return ShardSummary(self, shard)

    def score(self, records: list[ImputedRecord]) -> evaluation.Scores:
        """Scores of records, zero where there is no truth."""
        num = len(records)
        has_truth = np.array([record.masked.truth is not None for record in records])
        images = np.stack([r.mean * 0 if r.masked.truth is None else r.masked.truth for r in records])
        ids = [record.masked.id for record in records]
        likelihood = LIKELIHOODS[self._likelihood]()
        truth = model_values(likelihood, self._binarize, self._seed, ids, images.astype(self.schema.dtype))
        missing = np.stack([~record.masked.observed.ravel() for record in records])
        mean = np.stack([record.mean.ravel() for record in records])
        score = evaluation.score if likelihood.binary else evaluation.score_real
        return score(mean, truth.reshape(num, -1), missing & has_truth[:, None])


class ShardSummary:
    """Observes one shard, a block of records at a time."""

    def __init__(self, summarizer: Summarizer, shard: int):
        self._summarizer, self._shard = summarizer, shard
        self._block: list[ImputedRecord] = []
        self._groups: dict = {}
        schema = arrow_schema(summarizer.schema)
        self._temporary = summarizer.layout.temporary()
        self._writer, self._rows = pq.ParquetWriter(self._temporary, schema), schema.empty_table()

    def add(self, example: bytes) -> None:
        """Takes in the next Example of the shard."""
        self._block.append(decode_imputed(example, self._summarizer.schema))
        if len(self._block) == statistics.BLOCK:
            self._flush()

    def close(self) -> None:
        """Leaves the shard's part for `combine`."""
        if self._block:
            self._flush()
        self._write_rows()
        self._writer.close()
        layout = self._summarizer.layout
        FileSystems.rename([self._temporary], [layout.part(f"records-{self._shard:05d}.parquet")])
        write_whole(layout, layout.part(f"groups-{self._shard:05d}.json"), _encode_groups(self._groups))

    def _flush(self) -> None:
        scores = self._summarizer.score(self._block)
        groups = statistics.by_group(self._block, scores, self._summarizer.num_chains)
        self._groups = statistics.merge_groups(self._groups, groups)
        schema = self._summarizer.schema
        rows = [
            {"content_hash": content_hash(record.masked, schema)} | statistics.row(record, scores, index)
            for index, record in enumerate(self._block)
        ]
        self._rows = pa.concat_tables([self._rows, pa.Table.from_pylist(rows, schema=self._rows.schema)])
        self._block = []
        if len(self._rows) >= _ROW_GROUP:
            self._write_rows()

    def _write_rows(self) -> None:
        """Writes a group of rows; small groups would fill memory with what the file's footer says of them."""
        self._writer.write_table(self._rows)
        self._rows = self._rows.schema.empty_table()


def arrow_schema(schema: Schema) -> pa.Schema:
    """The columns of records.parquet."""
    kinds = {"int64": pa.int64(), "float32": pa.float32(), "bytes": pa.binary()}
    return pa.schema(
        [
            ("id", pa.binary()),
            ("content_hash", pa.binary(HASH_SIZE)),
            *((name, kinds[feature.kind]) for name, feature in schema.carried.items()),
            ("missing_fraction", pa.float64()),
            *((name, pa.from_numpy_dtype(np.dtype(dtype))) for name, dtype in DIAGNOSTICS.items()),
            ("nll", pa.float64()),
            ("brier", pa.float64()),
            ("f1", pa.float64()),
        ]
    )


def _encode_groups(groups: Mapping[str | None, statistics.Accumulator]) -> bytes:
    """Accumulators as JSON; Python writes floats so that they read back to the same bits."""
    encoded = [
        [group, [np.asarray(field).tolist() for field in (*accumulator[:-1], *accumulator.scores)]]
        for group, accumulator in groups.items()
    ]
    return json.dumps(encoded).encode()


def _decode_groups(content: bytes, num_values: int) -> dict[str | None, statistics.Accumulator]:
    like = statistics.empty(num_values)
    dtypes = [field.dtype for field in (*like[:-1], *like.scores)]
    num_sums = len(like) - 1

    def accumulator(fields):
        arrays = [np.array(field, dtype) for field, dtype in zip(fields, dtypes)]
        return statistics.Accumulator(*arrays[:num_sums], tuple(arrays[num_sums:]))

    return {group: accumulator(fields) for group, fields in json.loads(content)}


def combine(
    layout: Layout, schema: Schema, sampler: SamplerConfig, num_imputed: int, dead: DeadLetterCounts
) -> dict[str, Any]:
    """Writes `summary/` from the parts of all shards, and returns what summary.json holds."""
    directory = os.path.join(layout.root, "summary")
    os.makedirs(directory, exist_ok=True)
    groups: dict[str | None, statistics.Accumulator] = {None: statistics.empty(int(np.prod(schema.shape)))}
    parquet = os.path.join(directory, "records.parquet")
    with pq.ParquetWriter(parquet, arrow_schema(schema)) as rows:
        for shard in range(layout.num_shards):
            if os.path.exists(layout.part(f"shard-{shard:05d}.json")):  # else the shard is empty
                with open(layout.part(f"groups-{shard:05d}.json"), "rb") as file:
                    groups = statistics.merge_groups(groups, _decode_groups(file.read(), int(np.prod(schema.shape))))
                with pq.ParquetFile(layout.part(f"records-{shard:05d}.parquet")) as table:
                    for batch in table.iter_batches(_ROW_GROUP):
                        rows.write_batch(batch)
    summary = {
        "records": {"read": num_imputed + dead.total, "imputed": num_imputed, **dead.as_dict()},
        "log_likelihood": _log_likelihood(sampler),
        **_results(groups, schema, parquet),
    }
    with open(os.path.join(directory, "summary.json"), "w", encoding="utf-8") as file:
        json.dump(summary, file, indent=1, sort_keys=True)
    return summary


def _log_likelihood(sampler: SamplerConfig) -> dict[str, Any] | None:
    """How `log_prob_observed` and `log_prob_missing` are estimated; None where they are not."""
    if not sampler.num_evidence_draws:
        return None
    num_draws = -(-sampler.num_evidence_draws // sampler.rows_per_record) * sampler.rows_per_record
    observed = "importance sampling from a normal fit to the kept draws of p(z | x_obs), mixed with the prior"
    missing = (
        "log p(x) - log p(x_obs), each by as many draws: log p(x) by importance sampling from a normal fit to draws "
        "of latent_hmc on the complete record, mixed with the prior"
    )
    return {
        "observed": {"estimator": observed, "num_draws": num_draws},
        "missing": {"estimator": missing, "num_draws": num_draws},
    }


def _results(groups: Mapping[str | None, statistics.Accumulator], schema: Schema, parquet: str) -> dict[str, Any]:
    members = _members(list(groups), parquet) if "label" in schema.carried else {None: slice(None)}
    diagnostics: dict[str | None, dict[str, Any]] = {group: {} for group in groups}
    for name in _QUANTILES_OF:  # a column at a time: there is a value for every record
        values = pq.read_table(parquet, columns=[name])[name].to_numpy()
        for group, rows in members.items():
            diagnostics[group][name] = statistics.quantiles(values[rows])
    found = {
        group: statistics.result(accumulator, schema.shape) | {"diagnostics": diagnostics[group]}
        for group, accumulator in groups.items()
    }
    by_label = sorted((group for group in groups if group is not None), key=lambda label: (len(label), label))
    return {"all": found[None], "by_label": {label: found[label] for label in by_label}}


def _members(groups: list[str | None], parquet: str) -> dict[str | None, slice | np.ndarray]:
    """Group -> the places of its rows, None -> all rows; a row whose group was not taken up is in that alone."""
    labels = pq.read_table(parquet, columns=["label"])["label"].dictionary_encode("encode").combine_chunks()
    names = [statistics.group_name(label) for label in labels.dictionary.to_pylist()]
    places = {group: place for place, group in enumerate(groups)}
    group_of_row = np.array([places.get(name, len(groups)) for name in names])[labels.indices.to_numpy()]
    order = np.argsort(group_of_row, kind="stable")
    bounds = np.searchsorted(group_of_row[order], np.arange(len(groups) + 1))
    rows = {group: order[bounds[place] : bounds[place + 1]] for group, place in places.items()}
    return rows | {None: slice(None)}
