"""Samplers of p(x_mis | x_obs): one sampler, one file; the chain driver knows none of them by name.

To add one: a file beside these, and its name in `_NAMES`. The file has

- `Config`, its settings: a `SamplerConfig` whose `name` is the file's.
- `State`, `init`, `step`, and what else its mathematics needs.
- `build(vae, config)`, which makes a `base.Kernel` of them.

The settings are in the same file as the mathematics, and still every mistake in a configuration is
found before TensorFlow, which takes seconds to import, has started: these files take it from
`vaefill.model.lazy`, as all do that they import.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import pydantic
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from vaefill.model.config import SamplerConfig
from vaefill.model.samplers.base import Kernel

if TYPE_CHECKING:
    from vaefill.model.vae import VAE

_NAMES = (
    "latent_hmc",
    "pseudo_gibbs",
    "metropolis_within_gibbs",
    "ac_mwg",
    "lair",
    "importance_resampling",
    "annealed_smc",
)
DEFAULT = "latent_hmc"


class Sampler(Protocol):
    """What the file of a sampler has."""

    Config: type[SamplerConfig]

    def build(self, vae: VAE, config: SamplerConfig) -> Kernel:
        """The kernel for a VAE; the configuration is a `Config` of the same file."""


# By name.
SAMPLERS: dict[str, Sampler] = {
    name: importlib.import_module(f"vaefill.model.samplers.{name}") for name in _NAMES
}


def sampler_config(name: str = DEFAULT, **settings: Any) -> SamplerConfig:
    """The configuration of a sampler.

    Args:
        name: a key of `SAMPLERS`.
        settings: fields of that sampler's `Config`; the others keep their defaults.

    Raises:
        ValueError: an unknown name or setting, a setting of another sampler, a bad value.

    Example:
        >>> sampler_config("lair", num_particles=16, max_sweeps=500)
    """
    return validate({"name": name, **settings})


def config_type(values: Any) -> type[SamplerConfig]:
    """The `Config` of the sampler that values name, or of `DEFAULT` where they name none.

    Args:
        values: a section of a configuration, perhaps a wrong one.

    Returns:
        `SamplerConfig` itself where there is no sampler of that name.
    """
    name = values.get("name", DEFAULT) if isinstance(values, Mapping) else None
    if isinstance(name, str) and name in SAMPLERS:
        return SAMPLERS[name].Config
    return SamplerConfig


def validate(values: Any) -> Any:
    """The configuration that a mapping describes.

    Args:
        values: a mapping of settings; anything else comes back as it is.

    Raises:
        pydantic.ValidationError: see `sampler_config`.
    """
    if not isinstance(values, Mapping):
        return values
    chosen = config_type(values)
    if chosen is SamplerConfig:
        expected = ", ".join(map(repr, SAMPLERS))
        errors = [
            InitErrorDetails(
                type="literal_error",
                loc=("name",),
                ctx={"expected": expected},
                input=values["name"],
            )
        ]
    else:
        errors = _foreign(values, chosen)
    if errors:
        raise ValidationError.from_exception_data("sampler", errors)
    return chosen.model_validate(values)


def _foreign(values: Mapping[str, Any], chosen: type[SamplerConfig]) -> list[InitErrorDetails]:
    """Errors of settings that other samplers take but the chosen one does not."""
    name = values.get("name", DEFAULT)
    own = [field for field in chosen.model_fields if field not in SamplerConfig.model_fields]
    takes = f"it takes {', '.join(own) or 'none'} beside the settings of all samplers"
    others = {field for sampler in SAMPLERS.values() for field in sampler.Config.model_fields}
    return [
        InitErrorDetails(
            type=PydanticCustomError(
                "foreign_setting", f"sampler.name {name} does not take sampler.{setting}; {takes}"
            ),
            loc=(setting,),
            input=value,
        )
        for setting, value in values.items()
        if setting in others and setting not in chosen.model_fields
    ]


def build(vae: VAE, config: SamplerConfig) -> Kernel:
    """The kernel of the sampler that a configuration names, for a VAE."""
    return SAMPLERS[config.name].build(vae, config)


# A field of a larger configuration, validated by the sampler that it names.
AnyConfig = Annotated[pydantic.SerializeAsAny[SamplerConfig], pydantic.BeforeValidator(validate)]
