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

What a step counts for the end of the job, store.tally.Tallying, leaves it in the same way.

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
from vaefill.store import tally
from vaefill.store.dead_letters import DEAD
from vaefill.store.layout import Layout
from vaefill.store.resume import HashIndex, SkipKnown
from vaefill.store.sinks import WriteDataset
from vaefill.store.sources import CutFiles, DecodeRecords, ReadFrames
from vaefill.store.tally import TALLY
from vaefill.summary.summarizer import Summarizer


class Reading(NamedTuple):
    """What is read."""

    paths: Sequence[str]
    schema: Schema
    max_record_bytes: int
    max_bad_bytes: int


def _read_files(
    pipeline: beam.Pipeline, reading: Reading
) -> tuple[beam.PCollection, list[beam.PCollection], list[beam.PCollection]]:
    """Files -> (frame, record), and on the way two collections each of dead letters and tallies."""
    frames = (
        pipeline
        | "Files" >> beam.Create([os.fsencode(path) for path in reading.paths])
        | "Cut" >> beam.ParDo(CutFiles())
        | "Spread" >> beam.Reshuffle()
        | "Read"
        >> beam.ParDo(ReadFrames(reading.max_record_bytes)).with_outputs(DEAD, TALLY, main="frames")
    )
    decode = beam.ParDo(DecodeRecords(reading.schema))
    records = frames["frames"] | "Decode" >> decode.with_outputs(DEAD, TALLY, main="records")
    steps = (frames, records)
    return records["records"], [each[DEAD] for each in steps], [each[TALLY] for each in steps]


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
    records, dead_letters, tallies = _read_files(pipeline, reading)
    if known is not None:
        skip = beam.ParDo(SkipKnown(known, reading.schema)).with_outputs(TALLY, main="records")
        new = records | "SkipKnown" >> skip
        records = new["records"]
        tallies.append(new[TALLY])
    tally.write(tallies, layout)
    found = (
        records
        | "Impute" >> RunInference(handler)
        | "SplitDeadLetters" >> beam.ParDo(SplitDeadLetters()).with_outputs(DEAD, main="items")
    )
    write = WriteDataset(layout, reading.schema, reading.max_bad_bytes, summarizer)
    _ = (found["items"], *dead_letters, found[DEAD]) | "Write" >> write


def mask_files(pipeline: beam.Pipeline, reading: Reading, masks: Masks, layout: Layout) -> None:
    """TFRecords of images -> data set of masked records, dead letters."""
    records, dead_letters, tallies = _read_files(pipeline, reading)
    tally.write(tallies, layout)
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
    read = (
        pipeline
        | "Slices" >> beam.Create(splits)
        | "Spread" >> beam.Reshuffle()
        | "Read" >> beam.ParDo(ReadDataset(dataset, schema)).with_outputs(TALLY, main="records")
    )
    tally.write([read[TALLY]], layout)
    _mask(read["records"], [], schema, max_bad_bytes, masks, layout)


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
