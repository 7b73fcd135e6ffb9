"""The model directory: `vae.json` (what the model is), `weights.safetensors` (its numbers, and
location and scale of real values), and where there is one `calibration.safetensors`: validation
records that `vaefill.model.misfit` holds others against.

No file can run code when it is loaded. The fingerprint of a model is the SHA-256 over all of them,
so the same training gives the same fingerprint.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import keras
import numpy as np
import pydantic
import safetensors
import safetensors.numpy

from vaefill.model import files
from vaefill.model import vae as vae_lib
from vaefill.model.config import ModelConfig, Positive, Section
from vaefill.model.errors import ModelError, TooLargeError
from vaefill.model.gaps import Split
from vaefill.model.likelihoods import Likelihood
from vaefill.model.standardization import Standardization

FORMAT_VERSION = 2
# Versions of models that older programs would take for others, and so must refuse
_STANDARDIZED = 3
_SELF_MASKING = 4  # with a model of masks among the weights
# Version 1 had trainable weights alone, which are all that its MLPs have
_READABLE = (1, FORMAT_VERSION, _STANDARDIZED, _SELF_MASKING)
_STANDARDIZATION = ("standardization/location", "standardization/scale")  # among the weights
_DESCRIPTION = "vae.json"
_WEIGHTS = "weights.safetensors"
_CALIBRATION = "calibration.safetensors"
_FORMER_CALIBRATION = "reference.safetensors"  # its name in version 1
_IMAGES, _OBSERVED = "images", "observed"  # of the calibration set, the latter if it has gaps
_SAFETENSORS_TYPES: dict[type[np.generic], str] = {np.uint8: "U8", np.float32: "F32"}
_LARGEST_DESCRIPTION = 1 << 20  # bytes
ENSEMBLE_DESCRIPTION = "ensemble.json"  # of a directory of several models; see `ensembles`
_Kind = TypeVar("_Kind", bound="Description")


class Description(Section):
    """What `vae.json` holds."""

    format_version: int
    model: ModelConfig
    data_shape: tuple[Positive, Positive, Positive] = pydantic.Field(strict=False)
    training: dict[str, Any]


class LoadedModel(NamedTuple):
    """A VAE with its provenance."""

    vae: vae_lib.VAE
    description: Description
    fingerprint: str  # hexadecimal SHA-256 over the files
    calibration: Split | None  # validation records, of the data's type; None if there are none

    @property
    def likelihood(self) -> Likelihood:
        """Of the VAE."""
        return self.vae.likelihood

    @property
    def num_calibration(self) -> int:
        """Calibration records; 0 if there are none."""
        return 0 if self.calibration is None else len(self.calibration)


def _named_weights(vae: vae_lib.VAE) -> dict[str, keras.Variable]:
    """All weights of the networks and of a model of masks, by the names that files have them under.

    Those that training does not fit are among them, such as the averages of batch normalisation.
    """
    weights = {}
    for network in vae_lib.keras_networks(vae):
        for weight in network.weights:
            name = f"{network.name}/{weight.path}"
            if name in weights:
                raise ValueError(f"two weights have the name {name}: name the layers differently")
            weights[name] = weight
    return weights


def _calibration_path(directory: str) -> str | None:
    """Where the calibration set is, if there is one."""
    for name in (_CALIBRATION, _FORMER_CALIBRATION):
        path = os.path.join(directory, name)
        if files.exists(path):
            return path
    return None


def save(
    directory: str,
    vae: vae_lib.VAE,
    model: ModelConfig,
    training: dict[str, Any],
    calibration: Split | None = None,
) -> str:
    """Writes a model directory; `vae.json`, written last, makes it complete.

    Args:
        directory: made if need be; an earlier model in it is replaced.
        model: the configuration that `vae` was built from.
        training: a summary of the training, JSON values.
        calibration: M records of the data's type, that the model was not fitted to.

    Returns:
        The fingerprint.
    """
    files.make_directory(directory)
    weights = {name: weight.numpy() for name, weight in _named_weights(vae).items()}
    standardization = vae.likelihood.standardization
    if standardization is not None:
        values = (standardization.location, standardization.scale)
        weights |= {n: v.reshape(vae.data_shape) for n, v in zip(_STANDARDIZATION, values)}
    description = Description(
        format_version=_version(vae),
        model=model,
        data_shape=vae.data_shape,
        training=training,
    )
    text = json.dumps(description.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"
    contents = {_WEIGHTS: safetensors.numpy.save(weights)}
    if calibration is not None:
        arrays = {_IMAGES: calibration.values, _OBSERVED: calibration.observed}
        shape = (len(calibration), *vae.data_shape)
        contents[_CALIBRATION] = safetensors.numpy.save(
            {
                name: np.ascontiguousarray(array).reshape(shape)
                for name, array in arrays.items()
                if array is not None
            }
        )
    for name in {_CALIBRATION, _FORMER_CALIBRATION} - contents.keys():
        files.remove(os.path.join(directory, name))
    for name, content in (contents | {_DESCRIPTION: text.encode()}).items():
        files.write_whole(os.path.join(directory, name), content)
    return fingerprint(directory)


def _version(vae: vae_lib.VAE) -> int:
    """The oldest format that says all of a model."""
    if vae.likelihood.missingness is not None:
        return _SELF_MASKING
    return FORMAT_VERSION if vae.likelihood.standardization is None else _STANDARDIZED


def fingerprint(directory: str) -> str:
    """SHA-256 over `vae.json`, the weights and the calibration set if there is one, in
    hexadecimal.
    """
    digest = hashlib.sha256()
    paths = [os.path.join(directory, name) for name in (_DESCRIPTION, _WEIGHTS)]
    calibration = _calibration_path(directory)
    for path in paths if calibration is None else [*paths, calibration]:
        digest.update(bytes.fromhex(files.sha256(path)))
    return digest.hexdigest()


def is_complete(directory: str) -> bool:
    """Whether the directory holds the two files that a model cannot do without."""
    return all(files.is_file(os.path.join(directory, name)) for name in (_DESCRIPTION, _WEIGHTS))


def describe(directory: str) -> Description:
    """Reads and checks `vae.json` alone.

    Raises:
        ModelError: no model there, not one of this format, or an ensemble of several.
    """
    if files.is_file(os.path.join(directory, ENSEMBLE_DESCRIPTION)):
        member = os.path.join(directory, "member-00")
        raise ModelError(
            f"{directory} is an ensemble, and this takes a single model: a member, such as {member}"
        )
    if not is_complete(directory):
        raise ModelError(
            f"{directory} is not a model directory: it needs {_DESCRIPTION} and {_WEIGHTS}"
        )
    path = os.path.join(directory, _DESCRIPTION)
    description = read_description(path, Description, _READABLE)
    if description.format_version == 1 and "num_reference" in description.training:
        description.training["num_calibration"] = description.training.pop("num_reference")
    return description


def read_description(path: str, kind: type[_Kind], readable: Collection[int]) -> _Kind:
    """Reads and checks a file such as `vae.json`.

    Args:
        path: of the file.
        kind: what it must hold.
        readable: the format versions that are.

    Raises:
        ModelError: it holds something else.
    """
    try:
        text = files.read_at_most(path, _LARGEST_DESCRIPTION).decode()
        description = kind.model_validate_json(text)
    except TooLargeError as error:
        raise ModelError(str(error)) from None
    except (pydantic.ValidationError, UnicodeDecodeError) as error:
        first = (
            error.errors()[0]
            if isinstance(error, pydantic.ValidationError)
            else {"loc": (), "msg": str(error)}
        )
        raise ModelError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    version = description.format_version
    if version not in readable:
        known = ", ".join(map(str, readable))
        raise ModelError(f"{path} has format version {version}; this program reads {known}")
    return description


@contextlib.contextmanager
def _tensors(path: str) -> Iterator[Any]:
    """Opens a safetensors file, of which only what is asked for is read."""
    with files.local_copy(path) as place:
        with safetensors.safe_open(place, framework="numpy") as tensors:
            yield tensors


def load(directory: str) -> LoadedModel:
    """Loads a model directory.

    Raises:
        ModelError: no model there, weights that are not those of the architecture, or a calibration
            set of other data.
    """
    description = describe(directory)
    vae = vae_lib.build(description.model, description.data_shape)
    variables = _named_weights(vae)
    expected = {name: list(variable.shape) for name, variable in variables.items()}
    is_standardized = description.format_version == _STANDARDIZED
    if is_standardized:
        expected |= {name: list(description.data_shape) for name in _STANDARDIZATION}
    path = os.path.join(directory, _WEIGHTS)
    try:
        with _tensors(path) as weights:
            _check_shapes(
                path,
                expected,
                {name: weights.get_slice(name).get_shape() for name in weights.keys()},
            )
            for name, variable in variables.items():
                variable.assign(weights.get_tensor(name))
            if is_standardized:
                vae.likelihood.standardization = _load_standardization(path, weights, vae)
    except safetensors.SafetensorError as error:
        raise ModelError(f"{path} is not a safetensors file: {error}") from None
    return LoadedModel(vae, description, fingerprint(directory), _load_calibration(directory, vae))


def _load_standardization(path: str, weights: Any, vae: vae_lib.VAE) -> Standardization:
    """Location and scale, of the right shape, from the open file of weights."""
    if vae.likelihood.dtype is not np.float32:
        raise ModelError(f"{path}: {vae.likelihood.name} has values that are not standardised")
    kinds = {name: weights.get_slice(name).get_dtype() for name in _STANDARDIZATION}
    if set(kinds.values()) != {"F64"}:
        raise ModelError(f"{path}: {', '.join(_STANDARDIZATION)} must be F64, got {kinds}")
    location, scale = (weights.get_tensor(name).ravel() for name in _STANDARDIZATION)
    if not (np.isfinite(location) & np.isfinite(scale) & (scale > 0)).all():
        raise ModelError(f"{path}: a location is not finite, or a scale not finite and positive")
    return Standardization(location, scale)


def _load_calibration(directory: str, vae: vae_lib.VAE) -> Split | None:
    """The calibration set, checked before any of it is read."""
    path = _calibration_path(directory)
    if path is None:
        return None
    kinds = {_IMAGES: _SAFETENSORS_TYPES[vae.likelihood.dtype], _OBSERVED: "BOOL"}
    try:
        with _tensors(path) as file:
            found = {
                name: (s.get_dtype(), s.get_shape())
                for name in file.keys()
                for s in [file.get_slice(name)]
            }
            num = found.get(_IMAGES, (None, [0]))[1][:1]
            shape = [*num, *vae.data_shape]
            expected = {name: (kinds[name], shape) for name in found.keys() & kinds.keys()}
            if found != expected or _IMAGES not in found or num < [1]:
                raise ModelError(
                    f"{path} must hold a tensor {_IMAGES!r} {kinds[_IMAGES]} "
                    f"[M, {', '.join(map(str, vae.data_shape))}], M at least 1, and if it has gaps "
                    f"{_OBSERVED!r} BOOL of the same shape, got {found}"
                )
            flat = {name: file.get_tensor(name).reshape(*num, -1) for name in found}
    except safetensors.SafetensorError as error:
        raise ModelError(f"{path} is not a safetensors file: {error}") from None
    if not np.isfinite(flat[_IMAGES]).all():
        raise ModelError(f"{path} holds values that are not finite")
    return Split(flat[_IMAGES], flat.get(_OBSERVED))


def _check_shapes(
    path: str, expected: Mapping[str, list[int]], found: Mapping[str, list[int]]
) -> None:
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ModelError(
                f"{path}: {name} has shape {found.get(name)}, the architecture of {_DESCRIPTION} "
                f"asks for {expected.get(name)}"
            )
