"""The sections of the configuration that the model layer reads: validated and frozen.

`vaefill.config` puts them together with its own, reads YAML, and turns errors into one
clear line.
"""

import dataclasses
import math
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from vaefill.model.counter_random import MAX_CHAINS, MAX_SWEEPS

Positive = Annotated[int, Field(ge=1)]
Width = Annotated[int, Field(ge=1, le=65_536)]
MAX_MEMBERS = 100  # of an ensemble


class Section(pydantic.BaseModel):
    """A part of the configuration: unknown keys and wrong types are errors, values never change."""

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False
    )


class DataConfig(Section):
    """The data set to train on."""

    name: str = Field(
        "digits",
        description="digits, tfds:NAME, tfds:PATH of a prepared data set, or TFRecord files of "
        "masked records; records may lack values",
    )
    train: str = Field("train", description="tfds split to train on; of files train[:80%]")
    validation: str = Field(
        "validation",
        description="tfds split for early stopping, and to tell misfits by; of files "
        "train[80%:90%]",
    )
    test: str = Field("test", description="tfds split scored at the end; of files train[90%:]")
    exclude: str | None = Field(
        None,
        description="a data set, digits or tfds:NAME: what training and validation have of its "
        "records, by their values, is left out",
    )

    @property
    def has_one_split(self) -> bool:
        """Whether the name is that of files or arrays, of which all splits are parts of one."""
        return _has_one_split(self.name)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _parts_of_one(cls, values: Any) -> Any:
        if isinstance(values, dict) and _has_one_split(values.get("name", "digits")):
            return _PARTS_OF_ONE | values
        return values


_PARTS_OF_ONE = {
    "train": "train[:80%]",
    "validation": "train[80%:90%]",
    "test": "train[90%:]",
}


def _has_one_split(name: Any) -> bool:
    return isinstance(name, str) and name != "digits" and not name.startswith("tfds:")


class RecordConfig(Section):
    """What a record is."""

    shape: tuple[Positive, Positive, Positive] = Field(
        (28, 28, 1), strict=False, description="[H, W, C]"
    )
    dtype: Literal["uint8", "float32"] = Field(
        "uint8", description="grey values, or real ones: model.likelihood gaussian"
    )
    binarize: Literal["threshold", "sample", "none"] = Field(
        "threshold",
        description="how grey values become binary, in training and imputing alike: at 1/2, by "
        "Bernoulli draws, or not",
    )
    mask_means: Literal["observed", "missing"] = Field(
        "observed", description="what a 1 of a mask says, in `observed` and in the files of masks"
    )
    missing: Literal["nan", "none"] | float = Field(
        "nan",
        description="what stands for a missing value in image and truth, whatever the mask says: "
        "NaN, a number such as -999 beside it, or none, where NaN is a fault",
    )
    carry: dict[str, Literal["int64", "float32", "bytes"]] = Field(
        {"label": "int64"},
        description="scalar features handed on to the output under their names, with their types",
    )


BUILT_IN_ARCHITECTURES = ("mlp", "conv_resnet")
ARCHITECTURES_GROUP = "vaefill.architectures"  # of entry points, by which packages bring others


class ModelConfig(Section):
    """The architecture of the VAE."""

    architecture: str = Field(
        "mlp",
        description="mlp, conv_resnet, or one that an installed package brings: an entry point of "
        "the group vaefill.architectures",
    )
    likelihood: Literal["bernoulli", "discretized_logistic_mixture", "gaussian"] = "bernoulli"
    prior: Literal["standard_normal", "flow"] = Field(
        "standard_normal",
        description="of the latents: standard normal, or learnt with the networks, affine "
        "couplings: a better model for a tenth more time",
    )
    latent_size: Annotated[int, Field(ge=1, le=4096)] = 32
    hidden: tuple[Width, ...] = Field(
        (512, 512),
        strict=False,
        min_length=1,
        description="widths, encoder's order; of conv_resnet channels, at half the height and "
        "width, a quarter, and so on; by default (32, 64)",
    )
    activation: Literal["relu", "silu", "gelu", "softplus", "tanh", "elu"] = Field(
        "silu", description="a smooth one lets Hamiltonian samplers take larger steps"
    )
    missingness: Literal["ignorable", "self_masking", "self_masking_per_value"] = Field(
        "ignorable",
        description="why values are missing: at random given what is observed, or, of binary "
        "ones, because of what they are, by two probabilities that are learnt, the same for all "
        "values or for each its own",
    )

    @pydantic.model_serializer(mode="wrap")
    def _without_what_went_without_saying(self, dump: Any) -> dict[str, Any]:
        values = dump(self)
        return {key: value for key, value in values.items() if _IMPLIED.get(key, ...) != value}

    @pydantic.model_validator(mode="after")
    def _masks_are_of_binary_values(self) -> Self:
        if self.missingness != "ignorable" and self.likelihood != "bernoulli":
            raise ValueError(
                f"missingness {self.missingness} needs likelihood bernoulli, got {self.likelihood}"
            )
        return self

    @pydantic.field_validator("architecture")
    @classmethod
    def _is_known(cls, name: str) -> str:
        known = [*BUILT_IN_ARCHITECTURES, *entry_points(group=ARCHITECTURES_GROUP).names]
        if name not in known:
            raise ValueError(f"must be one of {', '.join(known)}")
        return name

    @pydantic.model_validator(mode="after")
    def _flow_has_halves(self) -> Self:
        if self.prior == "flow" and self.latent_size < 2:
            raise ValueError(f"prior flow needs latent_size 2 or more, got {self.latent_size}")
        return self

    @pydantic.model_validator(mode="before")
    @classmethod
    def _channels_of_convolutions(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("architecture") == "conv_resnet":
            return {"hidden": (32, 64)} | values
        return values


# Fields of a model, and what was always so before it could be said. What is written of a model
# leaves that out: models and trainings that are older stay what they were.
_IMPLIED = {"missingness": "ignorable"}

_RECORDS_OF_LIKELIHOOD = {  # record.dtype, record.binarize
    "bernoulli": ("uint8", ("threshold", "sample")),
    "discretized_logistic_mixture": ("uint8", ("none",)),
    "gaussian": ("float32", ("none",)),
}


def check_likelihood(likelihood: str, record: RecordConfig) -> None:
    """Checks that records are of the kind that a likelihood is for.

    Raises:
        ValueError: they are not; one line that names the values and the fix.
    """
    dtype, rules = _RECORDS_OF_LIKELIHOOD[likelihood]
    if record.dtype != dtype:
        raise ValueError(
            f"model.likelihood {likelihood} needs record.dtype {dtype}, got {record.dtype}"
        )
    if record.binarize not in rules:
        raise ValueError(
            f"model.likelihood {likelihood} needs record.binarize "
            f"{' or '.join(rules)}, got {record.binarize}"
        )


class TrainConfig(Section):
    """How the VAE is trained."""

    num_members: Annotated[int, Field(ge=1, le=MAX_MEMBERS)] = Field(
        1,
        description="models to train, each on a bootstrap resample of the training split: an "
        "ensemble, whose imputations know that weights are uncertain; 1: one model, on the split "
        "itself",
    )
    epochs: Annotated[float, Field(gt=0)] = 100.0
    batch_size: Positive = 256
    num_importance_samples: Positive = Field(
        1, description="k of the bound: 1 is the ELBO, more the IWAE bound"
    )
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    clip_norm: Annotated[float, Field(gt=0)] = 100.0
    evaluate_every: Annotated[float, Field(gt=0)] = Field(
        1.0, description="epochs between validations"
    )
    patience: Positive = Field(
        20, description="validations without a better bound before training stops"
    )
    num_test_importance_samples: Positive = Field(1000, description="k of the final log p(x)")
    num_test_images: Positive = Field(10_000, description="at most so many test images are scored")
    num_calibration: Annotated[int, Field(ge=0, le=100_000)] = Field(
        199,
        description="validation images kept in the model directory, to tell misfits, and not used "
        "for early stopping; at most half of them; 0: none, and no misfits",
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that the weights depend on."""

    data: DataConfig
    record: RecordConfig
    model: ModelConfig
    train: TrainConfig
    seed: int


class SamplerConfig(Section):
    """What the configurations of all samplers share; a sampler's own, in its file, is a subclass.

    `vaefill.model.samplers.sampler_config` makes one by the sampler's name.
    """

    name: str = Field(description="of the sampler, and of its file in vaefill.model.samplers")
    num_chains: Annotated[int, Field(ge=2, le=4096)] = Field(
        4, description="independent chains of a record"
    )
    num_start: Annotated[int, Field(ge=0, lt=1 << 18)] = Field(
        20, description="sweeps of pseudo-Gibbs to start with"
    )
    num_warmup: Annotated[int, Field(ge=0, lt=1 << 18)] = Field(
        85, description="sweeps of the sampler that adapt it and are thrown away"
    )
    max_sweeps: Annotated[int, Field(ge=1, lt=1 << 19)] = Field(
        2000,
        description="sweeps of a chain at most, with start and warm-up; what has converged stops",
    )
    num_imputations: Annotated[int, Field(ge=1, le=4096)] = Field(
        8,
        description="draws handed on, evenly over chains and kept sweeps, in an order by chance",
    )
    num_evidence_draws: Annotated[int, Field(ge=0)] = Field(
        1000,
        description="importance draws behind log p(x_obs) and log p(x_mis | x_obs); 0: neither",
    )
    slots: Annotated[int, Field(ge=32, multiple_of=32)] = Field(
        256,
        description="rows of the device batch, a chain (or particle) each; part of the result's "
        "identity. More are faster for many thousands of records; fewer leave less idle while the "
        "last records run",
    )
    precision: Literal["float32", "tensorfloat32", "bfloat16"] = Field(
        "float32",
        description="of wide products: tensorfloat32 is faster on GPUs and float32 elsewhere, "
        "bfloat16 is faster on processors with AMX or AVX512-BF16 too; the model that is sampled "
        "from is then the rounded one",
    )
    target_r_hat: Annotated[float, Field(gt=1)] = 1.01
    target_ess: Annotated[float, Field(gt=0)] = 400.0
    misfit_rate: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.01, description="the rate at which records like those of training are called misfits"
    )

    @property
    def rows_per_chain(self) -> int:
        """Rows of the device batch that a chain occupies: 1, unless its sampler says otherwise."""
        return 1

    @property
    def rows_per_record(self) -> int:
        """Rows of the device batch that a record occupies."""
        return self.num_chains * self.rows_per_chain

    @property
    def slots_unit(self) -> int:
        """What `slots` must be a multiple of: whole records, and 32 for the sake of equal bits."""
        return math.lcm(32, self.rows_per_record)

    @property
    def max_kept(self) -> int:
        """Sweeps of a chain after start and warm-up, at most."""
        return self.max_sweeps - self.num_start - self.num_warmup

    @pydantic.model_validator(mode="before")
    @classmethod
    def _is_of_a_sampler(cls, values: Any) -> Any:
        if cls is SamplerConfig and isinstance(values, dict):
            raise ValueError(
                "every sampler has its own: vaefill.model.samplers.sampler_config(name, ...)"
            )
        return values

    @pydantic.model_validator(mode="after")
    def _has_sweeps_enough(self) -> Self:
        least = self.num_start + self.num_warmup + 4
        if self.max_kept < 4:
            raise ValueError(
                "max_sweeps must be at least num_start + num_warmup + 4 = "
                f"{least}, got {self.max_sweeps}"
            )
        if self.num_imputations > self.max_kept * self.rows_per_record:
            rows = "num_chains" if self.rows_per_chain == 1 else "num_chains * num_particles"
            raise ValueError(
                f"num_imputations must be at most {rows} * (max_sweeps - num_start - num_warmup) = "
                f"{self.max_kept * self.rows_per_record}, got {self.num_imputations}"
            )
        most = (MAX_SWEEPS - 1) * self.rows_per_record  # a row's draws are numbered as sweeps are
        if self.num_evidence_draws > most:
            raise ValueError(
                f"num_evidence_draws must be at most {MAX_SWEEPS - 1} for each of the "
                f"{self.rows_per_record} rows of a record, {most}, got {self.num_evidence_draws}"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _fits_into_slots(self) -> Self:
        rows = self.rows_per_record
        if rows > MAX_CHAINS:
            raise ValueError(f"num_chains * num_particles must be at most {MAX_CHAINS}, got {rows}")
        if self.slots % self.slots_unit:
            raise ValueError(
                f"slots must be a multiple of 32 and of the {self.rows_per_record} rows of a "
                f"record, such as {self.slots_unit * -(-self.slots // self.slots_unit)}, "
                f"got {self.slots}"
            )
        return self
