"""Documents of results that nobody computed."""

from typing import Any

from vaefill.results.documents import (
    Counts,
    Device,
    Identity,
    ImputeIdentity,
    Input,
    Latent,
    LogProb,
    Manifest,
    MaskIdentity,
    RecordIdentity,
    Sampler,
    Scores,
    Times,
)

SAMPLER = {
    "name": "latent_hmc",
    "num_chains": 4,
    "max_sweeps": 400,
    "target_r_hat": 1.0625,
    "target_ess": 123.0,
    "misfit_rate": 0.02,
}


def record_identity(**changes: Any) -> RecordIdentity:
    """What records depend on."""
    values = {
        "model": "5eed" * 16,
        "seed": 17,
        "sampler": Sampler(**SAMPLER),
        "record": {"shape": [2, 3, 1]},
        "software": {"tensorflow": "9.8.7"},
        "device": Device(type="CPU", machine="x86_64", instruction_sets=("avx2",)),
    }
    return RecordIdentity(**values | changes)


def impute_identity(**changes: Any) -> ImputeIdentity:
    """What a result of imputation depends on."""
    values = dict(record_identity()) | {
        "output": {"num_shards": 4},
        "max_record_bytes": 1000,
        "inputs": ("ab" * 32,),
        "since": (),
    }
    return ImputeIdentity(**values | changes)


def mask_identity(**changes: Any) -> MaskIdentity:
    """What a data set of masked records depends on."""
    values = {
        "seed": 17,
        "mask": {"mechanism": "mcar", "rate": 0.5},
        "record": {"shape": [2, 3, 1]},
        "output": {"num_shards": 4},
        "max_record_bytes": 1000,
        "inputs": {"name": "mnist/3.0.1", "split": "test", "sizes": {"test": [10000, 1]}},
        "software": {"tensorflow": "9.8.7"},
    }
    return MaskIdentity(**values | changes)


def counts(written: int, **by_reason: int) -> Counts:
    """Counts of so many records and of dead letters."""
    dead = sum(by_reason.values())
    return Counts(
        read=written + dead,
        written=written,
        dead=dead,
        dead_by_reason=by_reason,
        unreadable_stretches=0,
        unreadable_bytes=0,
    )


def manifest(identity: Identity | None = None, **changes: Any) -> Manifest:
    """A manifest that names no file yet."""
    read = Input(
        path="in/<b>.tfrecord",
        size=12345,
        modified="2026-01-01T00:00:00+00:00",
        sha256="ab" * 32,
    )
    values = {
        "identity": identity or impute_identity(),
        "config": {"seed": 17},
        "inputs": (read,),
        "counts": counts(20, bad_image=7),
        "times": Times(started="2026-01-01T00:00:00+00:00", seconds=1.5),
    }
    return Manifest(**values | changes)


def scores() -> Scores:
    """Scores of a model."""
    return Scores(
        model="5eed" * 16,
        data="digits",
        split="test",
        num_records=10,
        log_prob=(LogProb(k=1, mean=-90.5, standard_error=None),),
        num_active=1,
        latents=(Latent(activity=0.5, active=True, mean=0.1, stddev=1.0),),
    )
