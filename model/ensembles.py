"""The directory of an ensemble: its members, model directories named `member-00`, `member-01` and
so on, and `ensemble.json`, written last, which makes it complete.

Imputations from one fitted model take its weights for the true ones. Members are fitted to
bootstrap resamples of the training records, so they differ by what those records leave open, and
imputations from all of them spread by that too (Efron 1994, "Missing data, imputation, and the
bootstrap"; Honaker, King & Blackwell 2011, "Amelia II").
"""

import hashlib
import json
import os
from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple

import pydantic

from vaefill.model import checkpoints, files
from vaefill.model.checkpoints import ENSEMBLE_DESCRIPTION, Description, LoadedModel
from vaefill.model.config import MAX_MEMBERS, ModelConfig
from vaefill.model.errors import ModelError
from vaefill.model.likelihoods import Likelihood

_FORMAT_VERSION = 1


class EnsembleDescription(Description):
    """What `ensemble.json` holds: what `vae.json` of the members does, and how many there are."""

    num_members: Annotated[int, pydantic.Field(ge=2, le=MAX_MEMBERS)]


class LoadedEnsemble(NamedTuple):
    """VAEs of one kind that count equally, with their provenance."""

    members: tuple[LoadedModel, ...]
    description: EnsembleDescription
    fingerprint: str  # hexadecimal SHA-256 over the files of all members and the description

    @property
    def likelihood(self) -> Likelihood:
        """Of the first member; those of others differ by what was estimated alone, such as the
        scale of real values.
        """
        return self.members[0].likelihood

    @property
    def num_calibration(self) -> int:
        """Calibration records of the member that has the fewest; 0 if there are none."""
        return min(member.num_calibration for member in self.members)


AnyModel = LoadedModel | LoadedEnsemble


def member_directory(directory: str, number: int) -> str:
    """Where a member of the ensemble lies, from number 0 on."""
    return os.path.join(directory, f"member-{number:02d}")


def member_seed(seed: int, number: int) -> int:
    """The seed of a member's training: a keyed BLAKE2b hash of its number, below 2**31.

    Seeds that follow each other would not do: the weights of layers have such.

    Args:
        seed: of the ensemble, 0 <= seed < 2**64.
        number: of the member.
    """
    key = seed.to_bytes(8, "little")
    digest = hashlib.blake2b(b"%d" % number, digest_size=4, key=key, person=b"vaefill.member")
    return int.from_bytes(digest.digest(), "little") >> 1


def save(
    directory: str,
    num_members: int,
    model: ModelConfig,
    shape: tuple[int, int, int],
    training: dict[str, Any],
) -> None:
    """Writes `ensemble.json` beside members that are complete.

    Args:
        directory: of the ensemble.
        num_members: how many there are.
        model: the configuration that each was built from.
        shape: of their data, [H, W, C].
        training: a summary of the training, JSON values.
    """
    description = EnsembleDescription(
        format_version=_FORMAT_VERSION,
        num_members=num_members,
        model=model,
        data_shape=shape,
        training=training,
    )
    text = json.dumps(description.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"
    files.write_whole(os.path.join(directory, ENSEMBLE_DESCRIPTION), text.encode())


def is_ensemble(directory: str) -> bool:
    """Whether the directory holds an ensemble that is complete."""
    return files.is_file(os.path.join(directory, ENSEMBLE_DESCRIPTION))


def is_complete(directory: str) -> bool:
    """Whether the directory holds a model or an ensemble that is complete."""
    return is_ensemble(directory) or checkpoints.is_complete(directory)


def describe(directory: str) -> Description:
    """Reads and checks the description of a model or an ensemble alone.

    Raises:
        ModelError: neither is there, or not of this format.
    """
    return _describe(directory) if is_ensemble(directory) else checkpoints.describe(directory)


def _describe(directory: str) -> EnsembleDescription:
    path = os.path.join(directory, ENSEMBLE_DESCRIPTION)
    return checkpoints.read_description(path, EnsembleDescription, (_FORMAT_VERSION,))


def fingerprint(directory: str) -> str:
    """SHA-256 of a model, or over those of all members of an ensemble and its description, in
    hexadecimal.
    """
    if not is_ensemble(directory):
        return checkpoints.fingerprint(directory)
    members = (
        checkpoints.fingerprint(member_directory(directory, number))
        for number in range(_describe(directory).num_members)
    )
    return _combined(directory, members)


def _combined(directory: str, members: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for each in (files.sha256(os.path.join(directory, ENSEMBLE_DESCRIPTION)), *members):
        digest.update(bytes.fromhex(each))
    return digest.hexdigest()


def load(directory: str) -> AnyModel:
    """Loads a model directory, or the directory of an ensemble.

    Raises:
        ModelError: neither is there; or a member is missing, damaged, or of another kind.
    """
    return load_ensemble(directory) if is_ensemble(directory) else checkpoints.load(directory)


def load_ensemble(directory: str) -> LoadedEnsemble:
    """Loads the directory of an ensemble; see `load`."""
    description = _describe(directory)
    paths = [member_directory(directory, number) for number in range(description.num_members)]
    members = tuple(map(checkpoints.load, paths))
    for path, member in zip(paths, members):
        if (member.description.model, member.description.data_shape) != (
            description.model,
            description.data_shape,
        ):
            raise ModelError(f"{path} is a model of another kind than its ensemble")
    found = _combined(directory, (member.fingerprint for member in members))
    return LoadedEnsemble(members, description, found)
