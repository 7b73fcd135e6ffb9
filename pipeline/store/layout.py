"""Where a job stages what."""

import dataclasses
import hashlib
import os
import uuid

from vaefill.model import files

DEAD_LETTERS = "dead_letters"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a job stages what.

    Attributes:
        root: the staging directory.
        name: the name of the data set, part of its file names.
        folder: where below the root the data set lies; empty for the root itself.
        split, num_shards: of the data set.
    """

    root: str
    name: str
    folder: str
    split: str
    num_shards: int

    @property
    def dataset(self) -> str:
        """The directory of the data set."""
        return os.path.join(self.root, self.folder) if self.folder else self.root

    @property
    def spill(self) -> str:
        """The directory of spilled bytes, gone when the job is done."""
        return os.path.join(self.root, "spill")

    def shard(self, index: int) -> str:
        """The path of a shard, named as tfds expects."""
        return os.path.join(
            self.dataset, f"{self.name}-{self.split}.tfrecord-{index:05d}-of-{self.num_shards:05d}"
        )

    def part(self, name: str) -> str:
        """The path of something that a worker leaves for the end of the job, gone when it is
        done.
        """
        return os.path.join(self.root, "parts", name)

    def temporary(self) -> str:
        """A fresh path for a file that is being written, also by a retry of the same work.

        What a failed attempt leaves there goes with the parts.
        """
        return self.part(uuid.uuid4().hex)

    @property
    def dead_letters(self) -> str:
        """The path of the dead letters."""
        return os.path.join(self.root, DEAD_LETTERS, "dead_letters.tfrecord")

    def shard_of(self, record_id: bytes) -> int:
        """The shard that a record belongs to."""
        digest = hashlib.blake2b(record_id, digest_size=8, person=b"vaefill.shard").digest()
        return int.from_bytes(digest, "little") % self.num_shards


def prepare(layout: Layout) -> None:
    """Makes the staging directories."""
    for directory in (
        layout.dataset,
        layout.spill,
        layout.part(""),
        os.path.dirname(layout.dead_letters),
    ):
        files.make_directory(directory)
