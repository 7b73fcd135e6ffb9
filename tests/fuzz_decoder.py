"""A coverage-guided fuzzer on what reads untrusted bytes; it ends at the first exception that is
not declared.

    pip install -e '.[fuzz]'
    python -m tests.fuzz_decoder -runs=1000000

The first byte of an input chooses the reader, the rest is what it reads. Options are libFuzzer's.
"""

import os
import sys
import tempfile

import atheris

with atheris.instrument_imports(
    include=[
        "vaefill.records.record",
        "vaefill.records.imputed",
        "vaefill.records.masked",
        "vaefill.records.codecs",
        "vaefill.records.pictures",
        "vaefill.records.tensors",
        "vaefill.store.sources",
    ]
):
    from vaefill.records.imputed import decode_imputed
    from vaefill.records.masked import decode_masked, decode_observed
    from vaefill.records.record import RecordError
    from vaefill.store.sources import decode
    from vaefill.store.tfrecord import Frame, read_frames

from tests import fuzz

_PATH = os.path.join(tempfile.mkdtemp(), "input")


def read_file(content: bytes) -> None:
    """A file of whatever: every frame is a record or a dead letter."""
    with open(_PATH, "wb") as file:
        file.write(content)
    for found in read_frames(_PATH, fuzz.MAX_RECORD_BYTES):
        if isinstance(found, Frame):
            decode(found, fuzz.SCHEMA)


def read_example(decoder):
    """An Example of whatever: a record, or a `RecordError`."""

    def read(content: bytes) -> None:
        try:
            decoder(content, fuzz.SCHEMA)
        except RecordError as error:
            assert str(error) and error.reason

    return read


READERS = [read_file, *map(read_example, (decode_masked, decode_observed, decode_imputed))]


def main() -> None:
    """Runs libFuzzer from good inputs."""
    corpus = tempfile.mkdtemp()
    original = fuzz.make_original(0)
    for index, content in enumerate((original.content, *original.payloads)):
        for reader in range(len(READERS)):
            with open(os.path.join(corpus, f"{index}-{reader}"), "wb") as file:
                file.write(bytes([reader]) + content)
    atheris.Setup(
        [*sys.argv, "-max_len=20000", corpus],
        lambda data: READERS[(data or b"\0")[0] % 4](data[1:]),
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
