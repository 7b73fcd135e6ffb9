"""The sections of the configuration that the model layer reads: validated and frozen.

`vaefill.pipeline.config` puts them together with its own, reads YAML, and turns errors into one clear line.
"""

import math
from typing import Annotated, Literal

import pydantic
from pydantic import Field

Positive = Annotated[int, Field(ge=1)]
Width = Annotated[int, Field(ge=1, le=65_536)]


class Section(pydantic.BaseModel):
    """A part of the configuration: unknown keys and wrong types are errors, values never change."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DataConfig(Section):
    """The data set to train on."""

    name: str = Field("digits", description="digits, tfds:NAME, or tfds:PATH of a prepared data set")
    train: str = Field("train", description="tfds split to train on")
    validation: str = Field("validation", description="tfds split for early stopping, and to tell misfits by")
    test: str = Field("test", description="tfds split scored at the end")


class RecordConfig(Section):
    """What a record is."""

    shape: tuple[Positive, Positive, Positive] = Field((28, 28, 1), strict=False, description="[H, W, C]")
    dtype: Literal["uint8", "float32"] = Field(
        "uint8", description="grey values, or real ones: model.likelihood gaussian"
    )
    binarize: Literal["threshold", "sample", "none"] = Field(
        "threshold",
        description="how grey values become binary, in training and imputing alike: at 1/2, by Bernoulli draws, or not",
    )
    carry: dict[str, Literal["int64", "float32", "bytes"]] = Field(
        {"label": "int64"}, description="scalar features handed on to the output under their names, with their types"
    )


class ModelConfig(Section):
    """The architecture of the VAE."""

    architecture: Literal["mlp"] = "mlp"
    likelihood: Literal["bernoulli", "discretized_logistic_mixture", "gaussian"] = "bernoulli"
    latent_size: Annotated[int, Field(ge=1, le=4096)] = 32
    hidden: tuple[Width, ...] = Field((512, 512), strict=False, min_length=1, description="widths, encoder's order")
    activation: Literal["relu", "silu", "gelu", "softplus", "tanh", "elu"] = Field(
        "silu", description="a smooth one lets Hamiltonian samplers take larger steps"
    )


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
        raise ValueError(f"model.likelihood {likelihood} needs record.dtype {dtype}, got {record.dtype}")
    if record.binarize not in rules:
        raise ValueError(
            f"model.likelihood {likelihood} needs record.binarize {' or '.join(rules)}, got {record.binarize}"
        )


class TrainConfig(Section):
    """How the VAE is trained."""

    epochs: Annotated[float, Field(gt=0)] = 100.0
    batch_size: Positive = 256
    num_importance_samples: Positive = Field(1, description="k of the bound: 1 is the ELBO, more the IWAE bound")
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    clip_norm: Annotated[float, Field(gt=0)] = 100.0
    evaluate_every: Annotated[float, Field(gt=0)] = Field(1.0, description="epochs between validations")
    patience: Positive = Field(20, description="validations without a better bound before training stops")
    num_test_importance_samples: Positive = Field(1000, description="k of the final log p(x)")
    num_test_images: Positive = Field(10_000, description="at most so many test images are scored")
    num_calibration: Annotated[int, Field(ge=0, le=100_000)] = Field(
        199,
        description="validation images kept in the model directory, to tell misfits, and not used for early stopping; "
        "at most half of them; 0: none, and no misfits",
    )


class SamplerConfig(Section):
    """How records are imputed."""

    name: Literal[
        "latent_hmc",
        "pseudo_gibbs",
        "metropolis_within_gibbs",
        "ac_mwg",
        "lair",
        "importance_resampling",
        "annealed_smc",
    ] = "latent_hmc"
    num_chains: Annotated[int, Field(ge=2, le=4096)] = Field(4, description="independent chains of a record")
    num_start: Annotated[int, Field(ge=0, lt=1 << 18)] = Field(20, description="sweeps of pseudo-Gibbs to start with")
    num_warmup: Annotated[int, Field(ge=0, lt=1 << 18)] = Field(
        85, description="sweeps of the sampler that adapt it and are thrown away"
    )
    max_sweeps: Annotated[int, Field(ge=1, lt=1 << 19)] = Field(
        2000, description="sweeps of a chain at most, start and warm-up included; a record that has converged stops"
    )
    num_imputations: Annotated[int, Field(ge=1, le=4096)] = Field(
        8, description="draws handed on, evenly over chains and kept sweeps, in an order by chance"
    )
    num_leapfrog_steps: Positive = Field(4, description="latent_hmc, annealed_smc: gradients of a sweep")
    num_scouts: Annotated[int, Field(ge=0, le=4096)] = Field(
        32, description="latent_hmc: climbs from draws of the prior, to find modes that no chain visits; 0: none"
    )
    num_particles: Annotated[int, Field(ge=2, le=1024)] = Field(
        8, description="lair, annealed_smc: rows of a chain; annealed_smc wants a hundred or more"
    )
    num_replenishing: Positive = Field(1, description="lair: of the particles, those drawn from the prior")
    prior_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.05, description="ac_mwg, importance_resampling: the prior's share of the proposal"
    )
    num_evidence_draws: Annotated[int, Field(ge=0)] = Field(
        1000, description="importance draws behind log p(x_obs) and log p(x_mis | x_obs); 0: neither"
    )
    slots: Annotated[int, Field(ge=32, multiple_of=32)] = Field(
        256,
        description="rows of the device batch, a chain (or particle) each; part of the result's identity. More are "
        "faster for many thousands of records; fewer leave less idle while the last records run",
    )
    precision: Literal["float32", "tensorfloat32", "bfloat16"] = Field(
        "float32",
        description="of wide products: tensorfloat32 is faster on GPUs and float32 elsewhere, bfloat16 is faster on "
        "processors with AMX or AVX512-BF16 too; the model that is sampled from is then the rounded one",
    )
    target_r_hat: Annotated[float, Field(gt=1)] = 1.01
    target_ess: Annotated[float, Field(gt=0)] = 400.0
    misfit_rate: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.01, description="the rate at which records like those of the training data are called misfits"
    )

    @property
    def rows_per_chain(self) -> int:
        """Rows of the device batch that a chain occupies."""
        return self.num_particles if self.name in ("lair", "annealed_smc") else 1

    @property
    def scouts_per_chain(self) -> int:
        """Scouts that each chain of a record sends."""
        return -(-self.num_scouts // self.num_chains)

    @property
    def rows_per_record(self) -> int:
        """Rows of the device batch that a record occupies."""
        return self.num_chains * self.rows_per_chain

    @property
    def max_kept(self) -> int:
        """Sweeps of a chain after start and warm-up, at most."""
        return self.max_sweeps - self.num_start - self.num_warmup

    @pydantic.model_validator(mode="after")
    def _consistent(self):
        least = self.num_start + self.num_warmup + 4
        if self.max_kept < 4:
            raise ValueError(f"max_sweeps must be at least num_start + num_warmup + 4 = {least}, got {self.max_sweeps}")
        if self.num_imputations > self.max_kept * self.rows_per_record:
            rows = "num_chains" if self.rows_per_chain == 1 else "num_chains * num_particles"
            raise ValueError(
                f"num_imputations must be at most {rows} * (max_sweeps - num_start - num_warmup) = "
                f"{self.max_kept * self.rows_per_record}, got {self.num_imputations}"
            )
        if self.name == "annealed_smc" and self.num_particles < 4:
            raise ValueError(f"annealed_smc needs num_particles of at least 4, got {self.num_particles}")
        if self.num_replenishing >= self.num_particles:
            raise ValueError(f"num_replenishing must be less than num_particles = {self.num_particles}")
        if self.rows_per_record > 4096:
            raise ValueError(f"chains times particles of a record must be at most 4096, got {self.rows_per_record}")
        if self.slots % self.rows_per_record:
            step = math.lcm(32, self.rows_per_record)
            raise ValueError(
                f"slots must be a multiple of 32 and of the {self.rows_per_record} rows of a record, "
                f"such as {step * -(-self.slots // step)}, got {self.slots}"
            )
        return self
