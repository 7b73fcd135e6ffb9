"""The two pipelines, each on one screen.

A record's way through `impute`; whatever goes wrong leaves it as a dead letter:

    TFRecord file
      | cut between records      store.sources.CutFiles       -> its stretches
      | read, checksums            store.sources.ReadFrames     bytes -> Frame
      | decode, check, hash        store.sources.DecodeRecords  -> (Frame, MaskedRecord)
      | leave out what is known    store.resume.SkipKnown       with --since
      | computed before?           store.resume.ResumeCache     then straight to its Item
      | impute                     imputation.ImputationHandler -> Imputed, in device batches
      | encode, write down         store.resume.ResumeCache     -> Item: hash, source, Example
      | sort by shard, id, hash    store.exchange.Exchange      Items spilled, merged
      | one record an id           store.sinks.WriteShards      -> StoredRecord
      | write | summarise          store.writers.Writer | summary.summarizer.ShardSummary
    shard of the data set; part of the summary; store.dead_letters.WriteDeadLetters: all of these

`mask_files` and `mask_dataset` go the same way with `masking.MaskRecords` for the middle.

DoFns are annotated to yield Any, since Beam chooses coders by what annotations say.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference

from vaefill.imputation import ImputationHandler, SplitDeadLetters
from vaefill.masking import MaskRecords, Masks, ReadDataset
from vaefill.records.record import Schema
from vaefill.store.dead_letters import DEAD
from vaefill.store.layout import Layout
from vaefill.store.resume import HashIndex, SkipKnown
from vaefill.store.sinks import WriteDataset
from vaefill.store.sources import CutFiles, DecodeRecords, ReadFrames
from vaefill.summary.summarizer import Summarizer


class Reading(NamedTuple):
    """What is read."""

    paths: Sequence[str]
    schema: Schema
    max_record_bytes: int
    max_bad_bytes: int


def _read_files(
    pipeline: beam.Pipeline, reading: Reading
) -> tuple[beam.PCollection, list[beam.PCollection]]:
    """Files -> (frame, record), and the two collections of dead letters on the way."""
    frames = (
        pipeline
        | "Files" >> beam.Create([os.fsencode(path) for path in reading.paths])
        | "Cut" >> beam.ParDo(CutFiles())
        | "Spread" >> beam.Reshuffle()
        | "Read"
        >> beam.ParDo(ReadFrames(reading.max_record_bytes)).with_outputs(DEAD, main="frames")
    )
    decode = DecodeRecords(reading.schema)
    records = frames["frames"] | "Decode" >> beam.ParDo(decode).with_outputs(DEAD, main="records")
    return records["records"], [frames[DEAD], records[DEAD]]


def impute(
    pipeline: beam.Pipeline,
    reading: Reading,
    known: HashIndex | None,
    handler: ImputationHandler,
    layout: Layout,
    summarizer: Summarizer,
) -> None:
    """Masked records, save those that are known -> imputed data set, parts of the summary, dead
    letters.
    """
    records, dead_letters = _read_files(pipeline, reading)
    if known is not None:
        records = records | "SkipKnown" >> beam.ParDo(SkipKnown(known))
    found = (
        records
        | "Impute" >> RunInference(handler)
        | "SplitDeadLetters" >> beam.ParDo(SplitDeadLetters()).with_outputs(DEAD, main="items")
    )
    write = WriteDataset(layout, reading.schema, reading.max_bad_bytes, summarizer)
    _ = (found["items"], *dead_letters, found[DEAD]) | "Write" >> write


def mask_files(pipeline: beam.Pipeline, reading: Reading, masks: Masks, layout: Layout) -> None:
    """TFRecords of complete images -> data set of masked records, dead letters."""
    records, dead_letters = _read_files(pipeline, reading)
    _mask(records, dead_letters, reading.schema, reading.max_bad_bytes, masks, layout)


def mask_dataset(
    pipeline: beam.Pipeline,
    dataset: str,
    splits: Sequence[str],
    schema: Schema,
    max_bad_bytes: int,
    masks: Masks,
    layout: Layout,
) -> None:
    """A tfds data set of images -> data set of masked records."""
    records = (
        pipeline
        | "Slices" >> beam.Create(splits)
        | "Spread" >> beam.Reshuffle()
        | "Read" >> beam.ParDo(ReadDataset(dataset, schema))
    )
    _mask(records, [], schema, max_bad_bytes, masks, layout)


def _mask(
    records: beam.PCollection,
    dead_letters: Sequence[beam.PCollection],
    schema: Schema,
    max_bad_bytes: int,
    masks: Masks,
    layout: Layout,
) -> None:
    items = records | "Mask" >> beam.ParDo(MaskRecords(masks, schema)).with_outputs(
        DEAD, main="items"
    )
    write = WriteDataset(layout, schema, max_bad_bytes)
    _ = (items["items"], *dead_letters, items[DEAD]) | "Write" >> write
