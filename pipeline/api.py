"""What `import vaefill` offers: the whole way from a model to filled-in arrays, for notebooks and
programs.

NumPy arrays go in and come out; files and Apache Beam are for `vaefill impute` and its like.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tqdm

from vaefill import config as config_lib
from vaefill import training_data
from vaefill.model import ensembles, missingness, parallel, pretrained
from vaefill.model.checkpoints import LoadedModel
from vaefill.model.config import SamplerConfig
from vaefill.model.ensemble_imputer import imputer_for
from vaefill.model.ensembles import LoadedEnsemble
from vaefill.model.imputer import Imputed
from vaefill.model.samplers import sampler_config
from vaefill.results import integrity, reading, value_maps
from vaefill.results.documents import Manifest, Summary

if TYPE_CHECKING:
    import pandas


def load_model(directory: str | os.PathLike) -> LoadedModel | LoadedEnsemble:
    """Reads a model directory, as `train` and `vaefill train` leave it, or the directory of an
    ensemble. No file in it can run code.

    Args:
        directory: or `pretrained:NAME`, of a model that comes with the package.

    Returns:
        The model: `vae`, `description`, `fingerprint`, and the calibration records by which misfits
        are told. Or the ensemble: `members`, models each, `description`, `fingerprint`.

    Raises:
        ModelError: no model is there, or not one that fits its own description.

    Example:
        >>> model = vaefill.load_model("runs/model")
        >>> model.description.model.latent_size
        32
    """
    return ensembles.load(pretrained.resolve(os.fspath(directory)))


def train(
    directory: str | os.PathLike,
    data: str | np.ndarray = "digits",
    observed: np.ndarray | None = None,
    *,
    config: str | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> LoadedModel | LoadedEnsemble:
    """Trains a VAE, or an ensemble of `train.num_members`, on complete records or on such as lack
    values. Interrupted and called again, it goes on where it was.

    Args:
        directory: the model directory to write. One that holds the finished model of the same
            settings is read.
        data: `digits` (10,000 MNIST digits that come with the package), `tfds:NAME`, `tfds:PATH` of
            a data set that tfds has prepared, or TFRecord files of masked records. Or an array
            [N, H, W, C]: bytes, or real numbers, whose likelihood is by default `gaussian`; NaN is
            missing. A tenth of it is for validation, a tenth for the test.
        observed: of an array, [N, H, W, C] bool, True = observed; by default everything is, but
            for NaN.
        config: a YAML file, or the name of one that comes with the package, such as `mnist.yaml`.
        settings: single values by their keys, such as `{"train.epochs": 10, "model.latent_size":
            8}`.
        progress: whether to show a bar.

    Returns:
        The trained model, or ensemble.

    Raises:
        ConfigError: an unknown key or a value out of range.
        DatasetError: the data set is not there, or its records are not as `record` says.
        TrainingError: the directory holds a training of other settings, or of other data, or the
            loss is not finite.
        ValueError: an array of another kind.

    Example:
        >>> model = vaefill.train("runs/model", settings={"train.epochs": 10})
        >>> table = np.genfromtxt("table.csv", delimiter=",")  # [N, D], NaN where missing
        >>> model = vaefill.train("runs/table", table[:, np.newaxis, :, np.newaxis])
    """
    arrays, implied = None, {"data.name": data}
    if isinstance(data, np.ndarray):
        arrays, implied = _as_training_data(data, observed, of_config=config is not None)
    elif observed is not None:
        raise ValueError("observed goes with an array; of files and data sets a feature says it")
    chosen = {**implied, **(settings or {})}
    loaded = config_lib.load(
        config, tuple(f"{key}={json.dumps(value)}" for key, value in chosen.items())
    )
    training_data.train(loaded, os.fspath(directory), progress, arrays)
    return load_model(directory)


def _as_training_data(
    values: np.ndarray, observed: np.ndarray | None, of_config: bool
) -> tuple[tuple[np.ndarray, np.ndarray | None], dict[str, Any]]:
    """An array of a type that records have, and the settings that go with it, the likelihood too
    unless a configuration says it.

    Raises:
        ValueError: no such type, or not of four dimensions.
    """
    if values.ndim != 4 or not (values.dtype == np.uint8 or values.dtype.kind == "f"):
        raise ValueError(
            f"data must be [N, H, W, C] of uint8 or of floats, got {values.dtype} {values.shape}; "
            "a table [N, D] is data[:, np.newaxis, :, np.newaxis]"
        )
    is_real = values.dtype.kind == "f"
    implied: dict[str, Any] = {
        "data.name": "arrays",
        "record.shape": list(values.shape[1:]),
        "record.dtype": "float32" if is_real else "uint8",
    }
    if is_real and not of_config:
        implied |= {"record.binarize": "none", "model.likelihood": "gaussian"}
    known = None if observed is None else np.asarray(observed)
    return (values.astype(np.float32) if is_real else values, known), implied


def mask(
    values: np.ndarray,
    mechanism: str = "mcar",
    *,
    observed: np.ndarray | None = None,
    ids: Sequence[str | bytes] | None = None,
    seed: int = 0,
    **parameters: Any,
) -> np.ndarray:
    """Chooses values to hide: `observed`, True where a value stays.

    Args:
        values: [N, H, W, C] records, uint8, or float32 but for `mar`.
        mechanism: `mcar`, `rows`, `top_three_quarters`, `block`, `half`, `mar` or `mnar`; see
            `vaefill.model.missingness`.
        observed: [N, H, W, C] bool, True where the value is known, of records that are not
            complete; what stands elsewhere is ignored, and is not observed in what is returned.
        ids: of the N records, on which a record's mask depends; by default their numbers.
        seed: another one gives other masks.
        **parameters: of the mechanism, such as `rate=0.5` of `mcar`.

    Returns:
        [N, H, W, C] bool.

    Raises:
        ValueError: an unknown mechanism, or parameters that it does not take; `observed` of another
            shape or type.

    Example:
        >>> observed = vaefill.mask(images, "mcar", rate=0.5)
        >>> fewer = vaefill.mask(images, "mcar", observed=observed, rate=0.2)
        >>> not_at_random = vaefill.mask(images, "mnar", dark=0.2, bright=0.8)
    """
    if observed is not None:
        _check_mask("observed", observed, values)
        values = np.where(observed, values, np.zeros((), values.dtype))
    if values.dtype == np.float32 and mechanism not in missingness.SEE_VALUES:
        values = np.zeros(values.shape, np.uint8)
    masks = [
        missingness.generate(
            mechanism, record, missingness.record_generator(seed, record_id), parameters
        )
        for record, record_id in zip(values, _as_bytes(ids, len(values)))
    ]
    chosen = np.array(masks, np.bool_).reshape(values.shape)
    return chosen if observed is None else chosen & observed


def impute(
    model: LoadedModel | LoadedEnsemble | str | os.PathLike,
    values: np.ndarray,
    observed: np.ndarray,
    ids: Sequence[str | bytes] | None = None,
    *,
    truths: Sequence[np.ndarray | None] | np.ndarray | None = None,
    truths_observed: np.ndarray | None = None,
    sampler: SamplerConfig | None = None,
    seed: int = 0,
    progress: bool = True,
    keep_chains: bool = False,
) -> Imputed:
    """Fills in missing values: draws from p(missing | observed) under a model, with diagnostics of
    every record.

    A record's result depends on its id, its observed values, the seed, the model and the sampler,
    and on nothing else: it has the same bits alone or among others. The first call with a model,
    sampler and seed compiles them, which takes some seconds; the last few are kept.

    Args:
        model: a model or an ensemble, or its directory. Imputation j is of member j modulo their
            number.
        values: [N, H, W, C] in the model's data type; what stands where values are missing is
            ignored.
        observed: [N, H, W, C] bool, True = observed.
        ids: of the N records, str or bytes; by default their numbers, `"0"`, `"1"`, ...
        truths: the complete records where they are known, [N, H, W, C] or N of [H, W, C] or None:
            then `log_prob_missing` says how likely the model found them.
        truths_observed: [N, H, W, C] bool, True where the truth is known; by default everywhere.
            A record of which it is not has no `log_prob_missing`: NaN.
        sampler: the sampler and when to stop, see `sampler_config`; by default `latent_hmc` until
            it has converged.
        seed: another one gives other draws.
        progress: whether to show a bar.
        keep_chains: whether `chains` keeps every kept sweep of every chain, some hundred kilobytes
            a record.

    Returns:
        One array a field over the N records: `imputations`, `mean`, `stddev`, `converged`, ...

    Raises:
        ModelError: the directory holds no model.
        ValueError: arrays whose shapes or types do not fit each other or the model; ids that are
            not unique; fewer imputations than an ensemble has members.

    Example:
        >>> result = vaefill.impute(model, images, observed)
        >>> result.imputations.shape, result.converged.mean()
    """
    parallel.share_cores()
    loaded = model if isinstance(model, LoadedModel | LoadedEnsemble) else load_model(model)
    # Models that do not say so were trained on sampled values.
    unsaid = "sample" if loaded.likelihood.binary else "none"
    binarize = loaded.description.training.get("binarize", unsaid)
    names = _as_bytes(ids, len(values))
    if len(set(names)) < len(names):
        raise ValueError(
            "ids must be unique: two records of one id would have the same random numbers"
        )
    known = () if truths is None else list(truths)
    if truths_observed is not None and known:
        _check_mask("truths_observed", truths_observed, values)
        known = [truth if mask.all() else None for truth, mask in zip(known, truths_observed)]
    imputer = imputer_for(loaded, sampler or sampler_config(), binarize, seed, keep_chains)
    with tqdm.tqdm(total=len(names), unit="record", disable=not progress) as bar:
        return imputer(
            values, observed, names, known, report=lambda converged: bar.update(len(converged))
        )


def _check_mask(name: str, mask: np.ndarray, values: np.ndarray) -> None:
    if mask.shape != values.shape or mask.dtype != np.bool_:
        raise ValueError(f"{name} must be bool {values.shape}, got {mask.dtype} {mask.shape}")


def _as_bytes(ids: Sequence[str | bytes] | None, num: int) -> list[bytes]:
    names = [str(index) for index in range(num)] if ids is None else list(ids)
    if len(names) != num:
        raise ValueError(f"there are {num} records and {len(names)} ids")
    return [name.encode() if isinstance(name, str) else bytes(name) for name in names]


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished result of `vaefill impute`.

    Attributes:
        directory: where it lies.
    """

    directory: str

    @functools.cached_property
    def manifest(self) -> Manifest:
        """What the run was: identity, configuration, inputs, counts, and the SHA-256 of every
        file.
        """
        return reading.read_manifest(self.directory)

    @functools.cached_property
    def summary(self) -> Summary:
        """Statistics of the whole data set and by label."""
        return reading.read_summary(self.directory)

    def imputed_values(self, label: str | None = None) -> value_maps.ImputedValues | None:
        """What was imputed, value by value: `mean` and `stddev`, float32 [H, W, C].

        Args:
            label: of the records, by its name in `summary.by_label`; by default of all records.

        Returns:
            Arrays with NaN where no such record lacked the value; None for a label that there was
            no room for.

        Raises:
            KeyError: a label that `summary` does not have.
            ResultError: the file is missing or damaged.
        """
        summary = self.summary
        group = summary.all if label is None else summary.by_label[label]
        return value_maps.read(self.directory, group)

    @functools.cached_property
    def table(self) -> "pandas.DataFrame":
        """A row a record, in the data set's order: id, missing fraction, diagnostics, scores."""
        import pyarrow.parquet

        return pyarrow.parquet.read_table(
            os.path.join(self.directory, "summary", "records.parquet")
        ).to_pandas()

    @functools.cached_property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """All records in memory, an array [N, ...] a feature, in the same order."""
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(os.path.join(self.directory, "imputed"))
        (split,) = builder.info.splits
        records = list(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False)))
        return {
            name: np.array([record[name] for record in records]) for name in builder.info.features
        }


def read_result(directory: str | os.PathLike) -> Result:
    """Opens a result directory of `vaefill impute`.

    Raises:
        ResultError: it is not a finished result.

    Example:
        >>> result = vaefill.read_result("runs/imputed")
        >>> result.table.query("not converged").id
        >>> result.arrays["imputations"].shape
    """
    reading.read_summary(os.fspath(directory))
    return Result(os.fspath(directory))


def verify(directory: str | os.PathLike) -> None:
    """Checks that every file of a result is there and as it was written, and that there are no
    others beside them.

    Raises:
        ResultError: not so; it names the files.

    Example:
        >>> vaefill.verify("runs/imputed")
    """
    integrity.verify(os.fspath(directory))
