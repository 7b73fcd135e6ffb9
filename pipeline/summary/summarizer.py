"""The summary of a result: parts that are made with the shards, put together in the shards' order.

They are staged on this machine, where Arrow reads and writes its tables by path, which is faster.
"""

import collections
import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vaefill.model import evaluation, files
from vaefill.model.config import SamplerConfig
from vaefill.model.fields import FIELDS
from vaefill.model.preprocessing import Preprocessor
from vaefill.records.record import DIAGNOSTICS, ImputedRecord, Schema, input_hash
from vaefill.results import value_maps
from vaefill.results.documents import (
    Counts,
    Estimator,
    LogLikelihood,
    Quantiles,
    RunWarning,
    Summary,
)
from vaefill.store.layout import Layout
from vaefill.store.writers import StoredRecord
from vaefill.summary import parts, statistics

_OBSERVED = (
    "importance sampling from a normal fit to kept draws of p(z | x_obs), mixed with the prior"
)
_MISSING = (
    "log p(x) - log p(x_obs), each by as many draws: log p(x) by importance sampling from a normal "
    "fit to draws of latent_hmc on the complete record, mixed with the prior"
)
Members = Mapping[str | None, slice | np.ndarray]  # group -> its rows, None -> all of them
_ROW_GROUP = 1 << 14  # of records.parquet: some MB at once, and few enough groups to read fast
_ROW_BYTES = 64 << 20  # but no more, of features that are handed on


class Summarizer:
    """Makes the observers that summarise shards.

    Args:
        layout, schema: of the job.
        num_chains: chains of a record.
        preprocessor: what the truth is scored under.
    """

    def __init__(self, layout: Layout, schema: Schema, num_chains: int, preprocessor: Preprocessor):
        self.layout = layout
        self.schema = schema
        self.num_chains = num_chains
        self._preprocessor = preprocessor
        self.binary = preprocessor.likelihood.binary

    def __call__(self, shard: int) -> "ShardSummary":
        return ShardSummary(self, shard)

    def score(self, records: list[ImputedRecord]) -> evaluation.Scores:
        """Scores of records, of what is missing and whose truth is known; zero without a truth."""
        known = np.stack([record.masked.truth_known.ravel() for record in records])
        images = np.stack(
            [np.zeros_like(r.mean) if r.masked.truth is None else r.masked.truth for r in records]
        )
        keys = self._preprocessor.keys([record.masked.id for record in records])
        truth = self._preprocessor.truth(keys, images.astype(self.schema.dtype))
        missing = np.stack([~record.masked.observed.ravel() for record in records])
        mean = np.stack([record.mean.ravel() for record in records])
        return self._preprocessor.score(mean, truth, missing & known)


class ShardSummary:
    """Observes one shard, a block of records at a time.

    It decodes what was encoded not long before, 0.15 ms a record of 28 x 28 (of 3 ms in the fastest
    of jobs): sums are to be taken in the shard's order, which is known only here, and 7 KB of mean
    and standard deviation beside every Example of 4 KB, in a spilled file and wherever an attempt
    leaves its results, would cost more than they are worth.

    Of a shard with too many labels those are let go of which have had the fewest records so far,
    never one with more than 1 / (`statistics.MAX_GROUPS` + 1) of them. `combine` leaves out a label
    that a shard has let go of.
    """

    def __init__(self, summarizer: Summarizer, shard: int):
        self._summarizer, self._shard = summarizer, shard
        self._block: list[StoredRecord] = []
        self._block_bytes = 0
        self._num_values = math.prod(summarizer.schema.shape)
        self._groups: dict[str | None, statistics.Accumulator] = {}
        schema = arrow_schema(summarizer.schema)
        self._temporary = summarizer.layout.temporary()
        self._writer, self._rows = pq.ParquetWriter(self._temporary, schema), schema.empty_table()

    def add(self, record: StoredRecord) -> None:
        """Takes in the next record of the shard."""
        self._block.append(record)
        self._block_bytes += statistics.bytes_of(record.example, self._num_values)
        if len(self._block) == statistics.BLOCK or self._block_bytes >= statistics.BLOCK_BYTES:
            self._flush()

    def close(self) -> None:
        """Leaves the shard's part for `combine`."""
        if self._block:
            self._flush()
        self._write_rows()
        self._writer.close()
        layout = self._summarizer.layout
        files.rename(self._temporary, layout.part(f"records-{self._shard:05d}.parquet"))
        with (
            files.written_whole(_groups_path(layout, self._shard), layout.temporary()) as growing,
            open(growing, "wb") as file,
        ):
            parts.write_groups(file, self._groups)

    def _flush(self) -> None:
        records = [stored.imputed for stored in self._block]
        scores = self._summarizer.score(records)
        groups = statistics.by_group(records, scores, self._summarizer.num_chains)
        statistics.add_groups(self._groups, groups)
        self._groups = statistics.bounded(self._groups, self._num_values)
        rows = [
            {"content_hash": stored.content_hash.hex(), "input_hash": self._input_hash(stored)}
            | statistics.row(stored.imputed, scores, index, self._summarizer.binary)
            for index, stored in enumerate(self._block)
        ]
        self._rows = pa.concat_tables(
            [self._rows, pa.Table.from_pylist(rows, schema=self._rows.schema)]
        )
        self._block, self._block_bytes = [], 0
        if len(self._rows) >= _ROW_GROUP or self._rows.nbytes >= _ROW_BYTES:
            self._write_rows()

    def _input_hash(self, stored: StoredRecord) -> str:
        masked = dataclasses.replace(stored.imputed.masked, content_hash=stored.content_hash)
        return input_hash(masked, self._summarizer.schema).hex()

    def _write_rows(self) -> None:
        """Writes a group of rows; small groups would fill memory with what the file's footer says
        of them.
        """
        if len(self._rows):
            self._writer.write_table(self._rows)
            self._rows = self._rows.schema.empty_table()


def arrow_schema(schema: Schema) -> pa.Schema:
    """The columns of records.parquet."""
    kinds = {"int64": pa.int64(), "float32": pa.float32(), "bytes": pa.binary()}
    return pa.schema(
        [
            ("id", pa.binary()),
            ("content_hash", pa.string()),
            ("input_hash", pa.string()),
            *((name, kinds[feature.kind]) for name, feature in schema.carried.items()),
            ("missing_fraction", pa.float64()),
            *((name, pa.from_numpy_dtype(np.dtype(dtype))) for name, dtype in DIAGNOSTICS.items()),
            ("nll", pa.float64()),
            ("brier", pa.float64()),
            ("f1", pa.float64()),
        ]
    )


def combine(
    layout: Layout,
    schema: Schema,
    sampler: SamplerConfig,
    binary: bool,
    counts: Counts,
    warnings: tuple[RunWarning, ...] = (),
) -> Summary:
    """Writes `summary/` from the parts of all shards.

    Args:
        layout, schema, sampler: of the job.
        binary: whether the likelihood's values are.
        counts: what became of the records.
        warnings: of the run.

    Returns:
        What summary.json holds.
    """
    directory = os.path.join(layout.root, "summary")
    files.make_directory(directory)
    counted = [layout.part(f"shard-{index:05d}.json") for index in range(layout.num_shards)]
    shards = [index for index, path in enumerate(counted) if files.exists(path)]  # not empty
    parquet = os.path.join(directory, "records.parquet")
    with pq.ParquetWriter(parquet, arrow_schema(schema)) as rows:
        for shard in shards:
            with pq.ParquetFile(layout.part(f"records-{shard:05d}.parquet")) as table:
                for group in range(table.num_row_groups):
                    rows.write_table(table.read_row_group(group))
    members: Members = {None: slice(None)}
    if "label" in schema.carried:
        members = _members(parquet)
    paths = [_groups_path(layout, shard) for shard in shards]
    accumulators = _whole_groups(paths, math.prod(schema.shape), members)
    rows_of_maps = _write_maps(layout.root, accumulators, schema)
    diagnostics = _diagnostics(parquet, {group: members[group] for group in accumulators})
    groups = {
        group: statistics.result(
            own, schema.shape, binary, diagnostics[group], rows_of_maps.get(group)
        )
        for group, own in accumulators.items()
    }
    labels = [group for group in groups if group is not None]
    by_label = sorted(labels, key=_label_order)
    summary = Summary(
        counts=counts,
        warnings=warnings,
        log_likelihood=_log_likelihood(sampler),
        all=groups[None],
        by_label={label: groups[label] for label in by_label},
        num_labels_left_out=len(members) - len(groups),
    )
    text = json.dumps(summary.plain(), indent=1, sort_keys=True)
    files.write_whole(os.path.join(directory, "summary.json"), text)
    return summary


def num_complete(layout: Layout) -> int:
    """How many records of a result lacked no value, when `combine` has made its records.parquet."""
    path = os.path.join(layout.root, "summary", "records.parquet")
    with pq.ParquetFile(path) as table:
        batches = table.iter_batches(_ROW_GROUP, columns=["missing_fraction"])
        return sum(int(np.count_nonzero(batch[0].to_numpy() == 0)) for batch in batches)


def _log_likelihood(sampler: SamplerConfig) -> LogLikelihood | None:
    """How `log_prob_observed` and `log_prob_missing` are estimated; None where they are not."""
    if not sampler.num_evidence_draws:
        return None
    rows = sampler.rows_per_record
    num_draws = -(-sampler.num_evidence_draws // rows) * rows
    return LogLikelihood(
        observed=Estimator(estimator=_OBSERVED, num_draws=num_draws),
        missing=Estimator(estimator=_MISSING, num_draws=num_draws),
    )


def _diagnostics(parquet: str, members: Members) -> dict[str | None, dict[str, Quantiles]]:
    """Quantiles of every diagnostic, of every group."""
    diagnostics: dict[str | None, dict[str, Quantiles]] = {group: {} for group in members}
    for field in FIELDS:  # a column at a time: there is a value for every record
        if field.has_quantiles:
            values = pq.read_table(parquet, columns=[field.name])[field.name].to_numpy()
            for group, rows in members.items():
                diagnostics[group][field.name] = statistics.quantiles(values[rows])
    return diagnostics


def _groups_path(layout: Layout, shard: int) -> str:
    return layout.part(f"groups-{shard:05d}.bin")


def _write_maps(
    root: str, groups: Mapping[str | None, statistics.Accumulator], schema: Schema
) -> dict[str | None, int]:
    """Writes the imputed values of the groups that have them; returns the rows that they got."""
    mapped = [group for group, own in groups.items() if own.value_count is not None]
    ordered = sorted(mapped, key=lambda group: (group is not None, *_label_order(group or "")))
    value_maps.write(
        root, [statistics.imputed_values(groups[group], schema.shape) for group in ordered]
    )
    return {group: row for row, group in enumerate(ordered)}


def _label_order(label: str) -> tuple[int, str]:
    """Numbers by size, without reading them as numbers."""
    return len(label), label


def _whole_groups(
    paths: Sequence[str], num_values: int, members: Members
) -> dict[str | None, statistics.Accumulator]:
    """The accumulators of the most common of the groups of which the parts have every record.

    Of a label that one shard let go of the others would show a part as if it were all. The parts
    are read twice, since together they may have far more groups than there is memory for.
    """
    num_found: collections.Counter[str | None] = collections.Counter()
    without_maps: set[str | None] = set()
    for path in paths:
        with files.open_to_read(path) as file:
            for group, size in parts.read_sizes(file).items():
                num_found[group] += size.num_records
                if not size.has_maps:
                    without_maps.add(group)
    whole = {
        group: num
        for group, num in num_found.items()
        if isinstance(places := members[group], slice) or num == len(places)
    }
    wanted = statistics.most_common(whole, statistics.MAX_GROUPS)
    with_maps = {group: num for group, num in whole.items() if group not in without_maps}
    mapped = statistics.most_common(with_maps, statistics.max_maps(num_values)) & wanted
    groups: dict[str | None, statistics.Accumulator] = {None: statistics.empty(num_values)}
    for path in paths:
        with files.open_to_read(path) as file:
            found = parts.read_groups(file, num_values, wanted, mapped)
            statistics.add_groups(groups, found)
    return groups


def _members(parquet: str) -> Members:
    labels = (
        pq.read_table(parquet, columns=["label"])["label"]
        .dictionary_encode("encode")
        .combine_chunks()
    )
    names = [statistics.group_name(label) for label in labels.dictionary.to_pylist()]
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    group_of_row = np.array([places[name] for name in names], np.int64)[labels.indices.to_numpy()]
    order = np.argsort(group_of_row, kind="stable")
    bounds = np.searchsorted(group_of_row[order], np.arange(len(places) + 1))
    return {name: order[bounds[place] : bounds[place + 1]] for name, place in places.items()} | {
        None: slice(None)
    }
