"""The whole configuration: one validated, frozen object, read from YAML.

Sections that the model layer reads are in `vaefill.model.config`. Every mistake is a `ConfigError` of one line
that names the value, the nearest known name or the allowed range.
"""

import difflib
import importlib.resources
import os
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import Field

from vaefill.model.config import (
    DataConfig,
    ModelConfig,
    Positive,
    RecordConfig,
    SamplerConfig,
    Section,
    TrainConfig,
    check_likelihood,
)
from vaefill.pipeline.errors import ConfigError

_NotNegative = Annotated[int, Field(ge=0)]
_Fraction = Annotated[float, Field(ge=0, le=1)]


class MaskConfig(Section):
    """How `vaefill mask` hides values: a mechanism of `vaefill.model.missingness`, or `file`, and its parameters."""

    mechanism: Literal["mcar", "rows", "top_three_quarters", "block", "half", "mar", "file"] = "mcar"
    rate: _Fraction | None = Field(None, description="mcar: probability of missing; mar: the same at mid-grey")
    slope: Annotated[float, Field(ge=-100, le=100)] | None = Field(
        None, description="mar: log-odds from black to white"
    )
    first: _NotNegative | None = Field(None, description="rows: the first row that stays")
    last: _NotNegative | None = Field(None, description="rows: one past the last row that stays")
    height: Positive | None = Field(None, description="block: rows of the missing rectangle")
    width: Positive | None = Field(None, description="block: columns of it")
    top: _NotNegative | None = Field(None, description="block: its first row; random per record if absent")
    left: _NotNegative | None = Field(None, description="block: its first column; random per record if absent")
    side: Literal["top", "bottom", "left", "right"] | None = Field(None, description="half: the half that is missing")
    masks: str | None = Field(None, description="file: TFRecords of Examples with `observed`, and `id` or one for all")

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters that were given, by name."""
        return self.model_dump(exclude={"mechanism"}, exclude_none=True)

    @pydantic.model_validator(mode="after")
    def _right_parameters(self):
        required, optional = _MASK_PARAMETERS[self.mechanism]
        for name in required:
            if getattr(self, name) is None:
                raise ValueError(f"mask.mechanism {self.mechanism} needs mask.{name}")
        for name in self.parameters:
            if name not in required + optional:
                takes = ", ".join(required + optional) or "no parameters"
                raise ValueError(f"mask.mechanism {self.mechanism} does not take mask.{name}; it takes {takes}")
        return self


_MASK_PARAMETERS = {
    "mcar": (("rate",), ()),
    "rows": (("first", "last"), ()),
    "top_three_quarters": ((), ()),
    "block": (("height", "width"), ("top", "left")),
    "half": (("side",), ()),
    "mar": (("rate", "slope"), ()),
    "file": (("masks",), ()),
}


class OutputConfig(Section):
    """How results are written."""

    split: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")] = Field(
        "train", description="split of the imputed data set"
    )
    num_shards: Annotated[int, Field(ge=1, le=99_999)] = 4


class LimitsConfig(Section):
    """What a job puts up with."""

    max_bad_fraction: _Fraction = Field(0.01, description="more dead letters than this fail the job")
    max_bad_records: _NotNegative | None = Field(None, description="more than so many, too")
    device_call_seconds: Annotated[float, Field(gt=0)] = Field(
        1800.0, description="a call of the device that takes longer, compilation included, ends the job"
    )
    max_record_bytes: Positive = Field(64 << 20, description="a longer record is a dead letter, never read")


class Config(Section):
    """Everything there is to set."""

    seed: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    data: DataConfig = DataConfig()
    record: RecordConfig = RecordConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    mask: MaskConfig = MaskConfig(rate=0.5)
    sampler: SamplerConfig = SamplerConfig()
    output: OutputConfig = OutputConfig()
    limits: LimitsConfig = LimitsConfig()

    @pydantic.model_validator(mode="after")
    def _consistent(self):
        check_likelihood(self.model.likelihood, self.record)
        if self.mask.mechanism == "mar" and self.record.dtype != "uint8":
            raise ValueError(f"mask.mechanism mar needs grey values, record.dtype uint8; got {self.record.dtype}")
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
            raise ConfigError(f"--set {setting!r}: expected section.key=value, such as sampler.num_chains=8")
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
        raise ConfigError("; ".join(_explain(detail) for detail in error.errors())) from None


def _read(path: str) -> dict[str, Any]:
    if not os.path.exists(path) and os.path.basename(path) == path and os.path.exists(packaged(path)):
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
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
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


def _explain(detail: Mapping[str, Any]) -> str:
    """One pydantic error -> key: what is wrong and what would be right."""
    location = [str(part) for part in detail["loc"]]
    name = ".".join(location)
    if detail["type"] == "extra_forbidden":
        known = _fields(location[:-1])
        elsewhere = [section for section in Config.model_fields if location[-1] in _fields([section])]
        if len(location) == 2 and elsewhere:
            return f"unknown key {name}; there is {elsewhere[0]}.{location[-1]}"
        nearest = difflib.get_close_matches(location[-1], known, n=1, cutoff=0)
        return f"unknown key {name}; the nearest known one is {'.'.join(location[:-1] + nearest)}"
    message = detail["msg"].removeprefix("Value error, ")
    given = "" if isinstance(detail["input"], Mapping | Section) else f", got {detail['input']!r}"
    return f"{name}: {message}{given}" if name else message


def _fields(location: Sequence[str]) -> list[str]:
    section: type[pydantic.BaseModel] = Config
    for key in location:
        section = section.model_fields[key].annotation
    return list(getattr(section, "model_fields", ()))
