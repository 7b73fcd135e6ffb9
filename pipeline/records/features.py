"""The features of both data sets, as tfds writes them to features.json and reads them."""

import numpy as np
import numpy.typing as npt
import tensorflow_datasets as tfds

from vaefill.model.fields import FIELDS, Field
from vaefill.records.codecs import is_picture
from vaefill.records.record import Schema


def masked_features(schema: Schema) -> tfds.features.FeaturesDict:
    """features.json of a data set of masked records with truth."""
    if is_picture(schema.shape[-1], schema.dtype):
        values = tfds.features.Image(shape=schema.shape, encoding_format="png")
    else:
        values = tfds.features.Tensor(shape=schema.shape, dtype=schema.dtype.type, encoding="bytes")
    mask = tfds.features.Tensor(shape=schema.shape, dtype=np.bool_, encoding="bytes")
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "image": values,
            "observed": mask,
            "truth": values,
            "truth_observed": mask,
            **{name: feature.tfds_feature for name, feature in schema.carried.items()},
        }
    )


def imputed_features(schema: Schema) -> tfds.features.FeaturesDict:
    """features.json of the imputed data set."""

    def tensor(shape: tuple[int, ...], dtype: npt.DTypeLike) -> tfds.features.Tensor:
        return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="zlib")

    shape, dtype = schema.shape, schema.dtype.type
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "image": tensor(shape, dtype),
            "observed": tensor(shape, np.bool_),
            "truth": tensor(shape, dtype),
            "truth_observed": tensor(shape, np.bool_),
            "has_truth": tfds.features.Scalar(dtype=np.bool_),
            "imputations": tensor((schema.num_imputations, *shape), dtype),
            "mean": tensor(shape, np.float32),
            "stddev": tensor(shape, np.float32),
            "extra": tfds.features.Text(),
            **{field.name: _diagnostic_feature(field) for field in FIELDS},
            **{name: feature.tfds_feature for name, feature in schema.carried.items()},
        }
    )


def _diagnostic_feature(field: Field) -> tfds.features.Scalar:
    return tfds.features.Scalar(dtype=field.dtype, doc=field.description)
