"""The two pipelines, each on one screen."""

from collections.abc import Sequence

import apache_beam as beam
from apache_beam.ml.inference.base import KeyedModelHandler, RunInference

from pipeline.imputation import ImputationHandler
from pipeline.masking import MaskRecords, Masks, ReadDataset
from pipeline.record import ImputedRecord, Schema, encode_imputed
from pipeline.sinks import Item, Layout, WriteDataset
from pipeline.sources import DEAD, DecodeRecords, Frame, ReadFrames
from pipeline.summary import Summarizer


def _read_files(pipeline: beam.Pipeline, paths: Sequence[str], schema: Schema, max_record_bytes: int):
    """Files -> (frame, record), and the two collections of dead letters on the way."""
    frames = (
        pipeline
        | "Files" >> beam.Create(paths)
        | "Spread" >> beam.Reshuffle()
        | "Read" >> beam.ParDo(ReadFrames(max_record_bytes)).with_outputs(DEAD, main="frames")
    )
    records = frames["frames"] | "Decode" >> beam.ParDo(DecodeRecords(schema)).with_outputs(DEAD, main="records")
    return records["records"], [frames[DEAD], records[DEAD]]


def encode(keyed: tuple[Frame, ImputedRecord], schema: Schema) -> Item:
    """An imputed record as an item of the data set."""
    frame, record = keyed
    return Item(record.masked.id, encode_imputed(record, schema), frame)


def impute(
    pipeline: beam.Pipeline,
    paths: Sequence[str],
    schema: Schema,
    handler: ImputationHandler,
    layout: Layout,
    summarizer: Summarizer,
    max_record_bytes: int,
) -> None:
    """Masked records -> imputed data set, parts of the summary, dead letters."""
    records, dead_letters = _read_files(pipeline, paths, schema, max_record_bytes)
    items = records | "Impute" >> RunInference(KeyedModelHandler(handler)) | "Encode" >> beam.Map(encode, schema)
    _ = (items, *dead_letters) | "Write" >> WriteDataset(layout, summarizer)


def mask_files(
    pipeline: beam.Pipeline, paths: Sequence[str], schema: Schema, masks: Masks, layout: Layout, max_record_bytes: int
) -> None:
    """TFRecords of complete images -> data set of masked records, dead letters."""
    records, dead_letters = _read_files(pipeline, paths, schema, max_record_bytes)
    _mask(records, dead_letters, schema, masks, layout)


def mask_dataset(
    pipeline: beam.Pipeline, dataset: str, splits: Sequence[str], schema: Schema, masks: Masks, layout: Layout
) -> None:
    """A tfds data set of images -> data set of masked records."""
    records = (
        pipeline
        | "Slices" >> beam.Create(splits)
        | "Spread" >> beam.Reshuffle()
        | "Read" >> beam.ParDo(ReadDataset(dataset, schema))
    )
    _mask(records, [], schema, masks, layout)


def _mask(records, dead_letters, schema: Schema, masks: Masks, layout: Layout) -> None:
    items = records | "Mask" >> beam.ParDo(MaskRecords(masks, schema)).with_outputs(DEAD, main="items")
    _ = (items["items"], *dead_letters, items[DEAD]) | "Write" >> WriteDataset(layout)
