"""The documents of a job: `manifest.json`, `summary.json`, and its outcome; and `scores.json` of a
model. Imports nothing slow.

They are frozen and strict: a key that is missing or unknown is an error, and so is a number that is
not finite. Whatever changes their keys changes `FORMAT_VERSION`. `vaefill schema` prints their JSON
schemas; `vaefill.results.reading` reads them.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Self

import pydantic
from pydantic import Field, JsonValue

FORMAT_VERSION: Final = 3

Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Share = Annotated[float, Field(ge=0, le=1)]
Version = Annotated[Literal[3], Field(description="of the format of results")]
Json = dict[str, JsonValue]
Edges = Annotated[tuple[Share, ...], Field(min_length=2, description="[B + 1] bounds of the bins")]


class Document(pydantic.BaseModel):
    """A JSON object."""

    model_config = pydantic.ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
    )

    def plain(self) -> dict[str, Any]:
        """The document as JSON values."""
        return self.model_dump(mode="json")


# --- what a job comes to


class Counts(Document):
    """What became of the records of the input, those apart that `--since` left out."""

    read: Count = Field(description="records that were read: written, repeated, or dead")
    written: Count = Field(description="records of the data set")
    repeated: Count = Field(0, description="further copies of records of one id and content")
    dead: Count = Field(description="dead letters")
    dead_by_reason: dict[str, Count] = Field(description="the same by reason")
    unreadable_stretches: Count = Field(
        description="stretches of the input in which no record can be found",
    )
    unreadable_bytes: Count = Field(description="their bytes")


class Work(Document):
    """What a run of `vaefill impute` had to do."""

    reused: Count = Field(description="records that an earlier attempt had computed")
    skipped: Count = Field(description="records that are in earlier results, and were left out")
    complete: Count = Field(0, description="records of the data set that lacked no value")
    chain_sweeps: Count = Field(description="sweeps of all chains, without those of reused records")
    network_passes: Count = Field(description="network passes, likewise")


class RunWarning(Document):
    """What is most likely wrong with a run though it went well."""

    code: Literal[
        "nothing_missing", "mask_inverted", "truth_contradicts", "grey_values", "misfit_rate"
    ] = Field(description="which kind of warning")
    text: str = Field(description="what was seen, and the fix")


Warnings = Annotated[tuple[RunWarning, ...], Field(description="of the run, one of a kind at most")]


# --- manifest.json


class Device(Document):
    """What the numbers were computed on."""

    type: str = Field(description="CPU, or the name of the GPU")
    machine: str = Field(description="architecture of the processor")
    instruction_sets: tuple[str, ...] = Field(description="of the processor, that TensorFlow uses")


class Sampler(Document):
    """The configuration's section `sampler`, of which the keys named here are shown to people."""

    model_config = pydantic.ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    name: str = Field(description="the sampler")
    target_r_hat: float = Field(gt=1, description="records converge below it")
    target_ess: float = Field(gt=0, description="records converge from it on")
    misfit_rate: Share = Field(description="p-values of fit up to it are those of misfits")


class RecordIdentity(Document):
    """What the result of a record depends on, beside the record."""

    model: str = Field(description="fingerprint of the model directory")
    seed: Count
    sampler: Sampler
    record: Json = Field(description="the configuration's section `record`")
    software: dict[str, str] = Field(description="versions that a result may depend on")
    device: Device


class ImputeIdentity(RecordIdentity):
    """What a result of `vaefill impute` depends on: the same identity gives the same bytes."""

    kind: Literal["impute"] = "impute"
    output: Json = Field(description="the configuration's section `output`")
    max_record_bytes: Count = Field(description="limits.max_record_bytes")
    inputs: tuple[str, ...] = Field(description="SHA-256 of the input files, sorted")
    since: tuple[str, ...] = Field(
        description="`manifest_sha256` of the earlier results whose records were left out, sorted"
    )


class MaskIdentity(Document):
    """What a result of `vaefill mask` depends on: the same identity gives the same bytes."""

    kind: Literal["mask"] = "mask"
    seed: Count
    mask: Json = Field(description="the configuration's section `mask`")
    record: Json = Field(description="the configuration's section `record`")
    output: Json = Field(description="the configuration's section `output`")
    max_record_bytes: Count = Field(description="limits.max_record_bytes")
    inputs: tuple[str, ...] | Json = Field(
        description="SHA-256 of the input files, sorted; or a tfds data set: name, split, sizes"
    )
    masks: tuple[str, ...] = Field((), description="SHA-256 of the files of masks")
    software: dict[str, str] = Field(description="versions that a result may depend on")


Identity = Annotated[ImputeIdentity | MaskIdentity, Field(discriminator="kind")]


class Input(Document):
    """An input file as it was read."""

    path: str
    size: Count = Field(description="bytes")
    modified: str = Field(description="ISO 8601")
    sha256: str


class Times(Document):
    """When a job ran."""

    started: str = Field(description="ISO 8601")
    seconds: Annotated[float, Field(ge=0)] = Field(description="how long it took")


class Manifest(Document):
    """`manifest.json`: what a result is, where it comes from, and what it holds."""

    format_version: Version = FORMAT_VERSION
    identity: Identity
    config: Json = Field(description="the whole configuration")
    inputs: tuple[Input, ...] = Field(description="the input files, in the order of the command")
    counts: Counts
    work: Work | None = Field(None, description="of `vaefill impute`")
    warnings: Warnings = ()
    model: Json | None = Field(None, description="of `vaefill impute`: the model's vae.json")
    times: Times
    files: dict[str, str] = Field({}, description="SHA-256 of every other file, by its path")
    manifest_sha256: str = Field("", description="SHA-256 of the rest of the manifest")

    @property
    def digest(self) -> str:
        """The SHA-256 of all but `manifest_sha256`, which equals it unless one was altered."""
        rest = self.model_dump(mode="json", exclude={"manifest_sha256"})
        return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()

    def sealed(self, files: dict[str, str]) -> "Manifest":
        """The manifest of a result of these files.

        Args:
            files: SHA-256, hexadecimal, by path within the result.
        """
        whole = self.model_copy(update={"files": dict(sorted(files.items()))})
        return whole.model_copy(update={"manifest_sha256": whole.digest})


# --- summary/summary.json


class Estimator(Document):
    """How a log-likelihood is estimated."""

    estimator: str = Field(description="in words")
    num_draws: Count = Field(description="importance draws of a record")


class LogLikelihood(Document):
    """How the log-likelihoods of records are estimated."""

    observed: Estimator = Field(description="of log_prob_observed")
    missing: Estimator = Field(description="of log_prob_missing")


class Quantiles(Document):
    """Quantiles of the values that are numbers, by probability; null where infinite, or of none."""

    model_config = pydantic.ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float | None]

    num_nan: Count = Field(description="values that are NaN, and in no quantile")

    def at(self, probability: str) -> float | None:
        """The quantile of a probability such as "0.05", None if there is none."""
        return self.__pydantic_extra__.get(probability)


def _check_bins(edges: Sequence, *columns: Sequence) -> None:
    if any(len(column) != len(edges) - 1 for column in columns):
        raise ValueError(f"{len(edges)} edges bound {len(edges) - 1} bins, not {len(columns[0])}")


class MissingFraction(Document):
    """How much of a record is missing: the mean, and a histogram over records."""

    mean: Share | None
    edges: Edges
    counts: tuple[Count, ...] = Field(description="[B] records")

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_bins(self.edges, self.counts)
        return self


class Reliability(Document):
    """How often what was predicted came true, by the predicted probability of a 1."""

    edges: Edges
    counts: tuple[Count, ...] = Field(description="[B] missing values")
    predicted: tuple[float | None, ...] = Field(description="[B] mean probability; null of none")
    frequency: tuple[Share | None, ...] = Field(description="[B] share of ones; null of none")

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_bins(self.edges, self.counts, self.predicted, self.frequency)
        return self

    def bins(self) -> list[tuple[float, float, int, float | None, float | None]]:
        """Bin by bin: lower and upper bound, count, predicted and frequency."""
        columns = (self.counts, self.predicted, self.frequency)
        return list(zip(self.edges[:-1], self.edges[1:], *columns, strict=True))


class TruthScores(Document):
    """Scores of the imputed means against the truth, a missing value; null where undefined."""

    num_unscored: Count = Field(description="records without scores: a mean is not finite")
    num_values: Count = Field(description="missing values that were scored")
    nll: float | None = Field(description="negative log-likelihood, nats; of binary values")
    brier: float | None = Field(description="squared error; of binary values the Brier score")
    f1: float | None = Field(description="of binary values")
    reliability: Reliability | None = Field(description="of binary values")


class Group(Document):
    """Statistics of the records of a label, or of all."""

    num_records: Count
    converged_fraction: Share | None
    misfit_fraction: Share | None = Field(description="of the records whose fit was tested")
    num_chain_sweeps: Count = Field(description="over all chains of all records")
    num_network_passes: Count = Field(description="over all records")
    num_non_finite: Count = Field(description="acceptance ratios and weights, over all records")
    missing_fraction: MissingFraction
    num_left_out: Count = Field(
        description="records without a part in the imputed values: a number of theirs is not finite"
    )
    values_row: Count | None = Field(
        description="row of the imputed values in imputed_values.safetensors; null of labels for "
        "which there is no room"
    )
    truth: TruthScores | None = Field(description="null where no record came with its truth")
    diagnostics: dict[str, Quantiles] = Field(description="by the names of records.parquet")

    def quantile(self, name: str, probability: str) -> float | None:
        """A quantile of a diagnostic, None if there is none; "0.5" is the median."""
        return self.diagnostics[name].at(probability) if name in self.diagnostics else None


class Summary(Document):
    """`summary/summary.json`: statistics of the whole data set, and by label."""

    format_version: Version = FORMAT_VERSION
    counts: Counts
    warnings: Warnings = ()
    log_likelihood: LogLikelihood | None = Field(description="null where it is not estimated")
    all: Group = Field(description="of all records")
    by_label: dict[str, Group] = Field(description="of the most common labels")
    num_labels_left_out: Count = Field(description="labels that count in `all` alone")


class Outcome(Document):
    """What a job came to."""

    counts: Counts
    work: Work | None = Field(None, description="of `vaefill impute`")
    summary: Summary | None = Field(None, description="of `vaefill impute`, if it wrote anything")
    warnings: Warnings = ()


# --- scores.json


class LogProb(Document):
    """An estimate of the mean log p(x) by k importance samples, in nats a record; null where it is
    not finite.
    """

    k: Count = Field(description="importance samples a record; 1: the ELBO")
    mean: float | None = Field(description="over records")
    standard_error: float | None = Field(description="over records")


class Latent(Document):
    """A latent over the records; null where not finite."""

    activity: float | None = Field(description="variance of the encoder's mean")
    active: bool = Field(description="whether that is above 0.01")
    mean: float | None = Field(description="of the aggregated posterior")
    stddev: float | None = Field(description="of the aggregated posterior")


class Scores(Document):
    """`scores.json` of `vaefill evaluate --model`: what a model says of complete records."""

    format_version: Version = FORMAT_VERSION
    model: str = Field(description="fingerprint of the model directory")
    data: str = Field(description="the data set")
    split: str = Field(description="of the data set")
    num_records: Count
    log_prob: tuple[LogProb, ...]
    num_active: Count = Field(description="latents that are active")
    latents: tuple[Latent, ...] = Field(description="[K], in the model's order")


DOCUMENTS: dict[str, type[Document]] = {
    "manifest": Manifest,
    "summary": Summary,
    "scores": Scores,
}


def json_schema(name: str) -> dict[str, Any]:
    """The JSON schema of a document in `DOCUMENTS`."""
    return DOCUMENTS[name].model_json_schema(mode="serialization")
