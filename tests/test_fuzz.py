"""A thousand broken inputs; `python -m tests.fuzz` tries as many as one likes.

What is found there belongs here.
"""

import os

import pytest
import tensorflow as tf

from tests import fuzz
from vaefill import config as config_lib
from vaefill import jobs
from vaefill.records.imputed import decode_imputed
from vaefill.records.record import content_hash
from vaefill.results import integrity
from vaefill.store import tfrecord
from vaefill.store.tfrecord import Frame

pytestmark = pytest.mark.slow


def test_a_thousand_broken_inputs_lose_no_good_record():
    num_records, num_dead = fuzz.run(range(1002), show_progress=False)
    # Most inputs hold good records, and something that is not
    assert num_records > 3000 and num_dead > 500


def lose_the_last(path, limit):
    found = list(tfrecord.read_frames(path, limit))
    return found[:-1] if isinstance(found[-1], Frame) else found


def pass_on_what_is_broken(path, limit):
    for found in tfrecord.read_frames(path, limit):
        yield found if isinstance(found, Frame) else found.frame


def read_twice(path, limit):
    for found in tfrecord.read_frames(path, limit):
        yield from (found, found)


@pytest.mark.parametrize(
    "reader, message",
    [
        (lose_the_last, "did not arrive"),
        (pass_on_what_is_broken, "something arrived that was not there|AttributeError"),
        (read_twice, "something arrived twice"),
    ],
)
def test_readers_that_are_wrong_are_found_out(monkeypatch, reader, message):
    monkeypatch.setattr(fuzz, "read_frames", reader)
    with pytest.raises(AssertionError, match=message):
        fuzz.run(range(1002), show_progress=False)


def test_a_job_over_broken_files_imputes_every_good_record(model_directory, tmp_path):
    """60 files of each kind of damage: what arrives by itself arrives in the result."""
    whole = set()
    for seed in range(60):
        original = fuzz.make_original(1000 + seed)
        case = fuzz.make_case(seed, original)
        (tmp_path / f"{seed:03d}").write_bytes(case.content)
        whole |= {content_hash(original.records[index], fuzz.SCHEMA) for index in case.whole}
    quick = [
        "sampler.name=pseudo_gibbs",
        "sampler.num_warmup=0",
        "sampler.max_sweeps=10",
        "sampler.num_evidence_draws=0",
    ]
    limits = ["limits.max_bad_fraction=1", f"limits.max_record_bytes={fuzz.MAX_RECORD_BYTES}"]
    config, out = config_lib.load("test.yaml", quick + limits), str(tmp_path / "out")
    found = jobs.impute(config, model_directory, [str(tmp_path / "0*")], out)
    paths = sorted(tf.io.gfile.glob(os.path.join(out, "imputed", "*.tfrecord-*")))
    schema = jobs.schema_of(config)
    examples = [decode_imputed(each.numpy(), schema) for each in tf.data.TFRecordDataset(paths)]
    assert whole <= {content_hash(example.masked, schema) for example in examples}
    assert found.counts.written == len(examples) > 250
    assert found.counts.dead > 20 and found.counts.unreadable_stretches > 20
    integrity.verify(out)
