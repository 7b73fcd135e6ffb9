"""The whole configuration: one validated, frozen object, read from YAML.

Sections that the model layer reads are in `vaefill.model.config`. Every mistake is a `ConfigError`
of one line that names the value, the nearest known name or the allowed range.
"""

import difflib
import importlib.resources
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import pydantic
import yaml
from pydantic import Field

from vaefill.errors import ConfigError
from vaefill.model import missingness, samplers
from vaefill.model.config import (
    DataConfig,
    ModelConfig,
    Positive,
    RecordConfig,
    Section,
    TrainConfig,
    check_likelihood,
)

_NotNegative = Annotated[int, Field(ge=0)]
_Fraction = Annotated[float, Field(ge=0, le=1)]


_OF_FILES = "TFRecords of Examples with `observed`, and `id` or one for all"
_Files = Annotated[str, Field(description=_OF_FILES)]
_MASK_PARAMETERS = {
    **{name: missingness.parameters_of(name) for name in missingness.MECHANISMS},
    "file": {"masks": missingness.Parameter(_Files, is_required=True)},
}


if TYPE_CHECKING:
    _Mechanism = str
else:
    _Mechanism = Literal[tuple(_MASK_PARAMETERS)]


class _MaskConfig(Section):
    mechanism: _Mechanism = Field(
        "mcar", description=f"{', '.join(missingness.MECHANISMS)} or file."
    )

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters that were given, by name."""
        return self.model_dump(exclude={"mechanism"}, exclude_none=True)

    @pydantic.model_validator(mode="after")
    def _right_parameters(self) -> Self:
        known = _MASK_PARAMETERS[self.mechanism]
        for name, parameter in known.items():
            if parameter.is_required and getattr(self, name) is None:
                raise ValueError(f"mask.mechanism {self.mechanism} needs mask.{name}")
        for name in self.parameters:
            if name not in known:
                takes = ", ".join(known) or "no parameters"
                raise ValueError(
                    f"mask.mechanism {self.mechanism} does not take mask.{name}; it takes {takes}"
                )
        return self


def _mask_fields() -> dict[str, Any]:
    """Of every parameter of any mechanism a field that may be absent, and says whose it is."""
    types: dict[str, Any] = {}
    meanings: dict[str, list[str]] = {}
    for mechanism, parameters in _MASK_PARAMETERS.items():
        for name, parameter in parameters.items():
            declared = pydantic.fields.FieldInfo.from_annotation(parameter.type)
            types.setdefault(name, parameter.type)
            meanings.setdefault(name, []).append(f"{mechanism}: {declared.description}")
    texts = {name: "; ".join(meanings[name]) for name in types}
    return {name: (types[name] | None, Field(None, description=texts[name])) for name in types}


MaskConfig = pydantic.create_model(
    "MaskConfig",
    __base__=_MaskConfig,
    __module__=__name__,
    __doc__="How `vaefill mask` hides values: a mechanism of `vaefill.model.missingness`, or "
    "`file`, and its parameters.",
    **_mask_fields(),
)


class OutputConfig(Section):
    """How results are written."""

    split: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")] = Field(
        "train", description="split of the imputed data set"
    )
    num_shards: Annotated[int, Field(ge=1, le=99_999)] = 4


class LimitsConfig(Section):
    """What a job puts up with."""

    max_bad_fraction: _Fraction = Field(
        0.01, description="more dead letters than this fail the job"
    )
    max_bad_records: _NotNegative | None = Field(None, description="more than so many, too")
    max_bad_bytes: Positive = Field(
        256 << 20,
        description="a worker that meets dead letters of more bytes ends the job at once",
    )
    device_call_seconds: Annotated[float, Field(gt=0)] = Field(
        1800.0,
        description="a call of the device that takes longer, compilation included, ends the job",
    )
    max_record_bytes: Positive = Field(
        64 << 20, description="a longer record is a dead letter, never read"
    )
    allow_missing_shards: bool = Field(
        False, description="whether a set of files such as x-00000-of-00004 may lack some"
    )

    def exceeded_by(self, bad: int, found: int) -> str | None:
        """The limit, as a message names it, that so many bad records of all exceed, if any."""
        allowed = {
            "max_bad_fraction": self.max_bad_fraction * found,
            "max_bad_records": self.max_bad_records,
        }
        for name, most in allowed.items():
            if most is not None and bad > most:
                return f"limits.{name} = {getattr(self, name)}"
        return None


class Config(Section):
    """Everything there is to set."""

    seed: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    data: DataConfig = DataConfig()
    record: RecordConfig = RecordConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    mask: MaskConfig = MaskConfig.model_validate({"rate": 0.5})
    sampler: samplers.AnyConfig = samplers.sampler_config()
    output: OutputConfig = OutputConfig()
    limits: LimitsConfig = LimitsConfig()

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        check_likelihood(self.model.likelihood, self.record)
        if self.mask.mechanism == "mar" and self.record.dtype != "uint8":
            raise ValueError(
                f"mask.mechanism mar needs grey values, record.dtype uint8; got {self.record.dtype}"
            )
        return self


def packaged(name: str) -> str:
    """The path of a configuration that is part of the package, such as `mnist.yaml`."""
    return str(importlib.resources.files("vaefill.configs") / name)


def load(path: str | None = None, settings: Sequence[str] = ()) -> Config:
    """Reads a configuration: the defaults, then the file, then `section.key=value` settings.

    Args:
        path: a YAML file, or the bare name of a packaged one, such as `mnist.yaml`.
        settings: `section.key=value`; values are YAML.

    Raises:
        ConfigError: no such file, not YAML, an unknown key, a wrong type, a value out of range.
    """
    values = _read(path) if path else {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise ConfigError(
                f"--set {setting!r}: expected section.key=value, such as sampler.num_chains=8"
            )
        _assign(values, name.split("."), _parse(text, f"--set {setting}"))
    return validate(values)


def validate(values: Mapping[str, Any]) -> Config:
    """A configuration from nested mappings.

    Raises:
        ConfigError: see `load`.
    """
    try:
        return Config.model_validate(values)
    except pydantic.ValidationError as error:
        raise ConfigError("; ".join(_explain(each, values) for each in error.errors())) from None


def _read(path: str) -> dict[str, Any]:
    if (
        not os.path.exists(path)
        and os.path.basename(path) == path
        and os.path.exists(packaged(path))
    ):
        path = packaged(path)
    try:
        with open(path, encoding="utf-8") as file:
            values = _parse(file.read(), path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected sections of keys, got {type(values).__name__}")
    return values


class _Loader(yaml.SafeLoader):
    """PyYAML reads YAML 1.1, in which 1e-3 is a string; here it is a number, as in YAML 1.2."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not YAML: {' '.join(str(error).split())}") from None


def _assign(values: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    for key in keys[:-1]:
        if values.get(key) is None:
            values[key] = {}
        values = values[key]
        if not isinstance(values, dict):
            raise ConfigError(f"{'.'.join(keys)}: {key} is not a section")
    values[keys[-1]] = value


def _explain(detail: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """One pydantic error of a configuration -> key: what is wrong and what would be right."""
    location = [str(part) for part in detail["loc"]]
    name = ".".join(location)
    if detail["type"] == "extra_forbidden":
        known = _fields(location[:-1], values)
        sections = Config.model_fields
        elsewhere = [each for each in sections if location[-1] in _fields([each], values)]
        if len(location) == 2 and elsewhere:
            return f"unknown key {name}; there is {elsewhere[0]}.{location[-1]}"
        nearest = difflib.get_close_matches(location[-1], known, n=1, cutoff=0)
        return f"unknown key {name}; the nearest known one is {'.'.join(location[:-1] + nearest)}"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "foreign_setting":
        return message
    given = "" if isinstance(detail["input"], Mapping | Section) else f", got {detail['input']!r}"
    return f"{name}: {message}{given}" if name else message


def _fields(location: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """The keys of the section at a location in a configuration of these values."""
    if list(location) == ["sampler"]:
        return list(samplers.config_type(values.get("sampler", {})).model_fields)
    section: Any = Config
    for key in location:
        section = section.model_fields[key].annotation
    return list(getattr(section, "model_fields", ()))
