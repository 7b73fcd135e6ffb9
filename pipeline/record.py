"""Masked and imputed records and their `tf.train.Example` codecs. Knows neither Beam nor a file.

Field by field, README.md has the two formats. Examples are untrusted: types and sizes are checked
before anything is allocated, and whatever is wrong is a `RecordError` with a reason from `Reason`.
"""

import dataclasses
import enum
import io
import math
import zlib
from collections.abc import Mapping

import numpy as np
import PIL.Image
import tensorflow as tf
import tensorflow_datasets as tfds
from google.protobuf.message import DecodeError

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_ZLIB_LEVEL = 1  # of mostly incompressible draws and means: higher levels cost time and save 2 %


class Reason(enum.StrEnum):
    """Why a record became a dead letter."""

    NOT_AN_EXAMPLE = "not_an_example"
    NO_ID = "no_id"
    BAD_TYPE = "bad_type"
    BAD_IMAGE = "bad_image"
    BAD_OBSERVED = "bad_observed"
    BAD_TRUTH = "bad_truth"
    DUPLICATE_ID = "duplicate_id"
    BAD_DATA_CRC = "bad_data_crc"
    UNREADABLE_REST = "unreadable_rest"
    TOO_LARGE = "too_large"


class RecordError(ValueError):
    """A record that cannot be used.

    Attributes:
        reason: the kind of error.
        record_id: the id, empty if it is not known.
    """

    def __init__(self, reason: Reason, message: str, record_id: bytes = b""):
        super().__init__(message)
        self.reason, self.record_id = reason, record_id


@dataclasses.dataclass(frozen=True)
class CarriedFeature:
    """A scalar that is handed on under its own name."""

    kind: str  # int64, float32 or bytes

    @property
    def default(self):
        """What stands for an absent value."""
        return {"int64": -1, "float32": math.nan, "bytes": b""}[self.kind]

    @property
    def tfds_feature(self):
        """How the value is declared in features.json."""
        if self.kind == "bytes":
            return tfds.features.Text()
        return tfds.features.Scalar(dtype=np.dtype(self.kind))


@dataclasses.dataclass(frozen=True)
class Schema:
    """What a job's records look like."""

    shape: tuple[int, int, int]  # [H, W, C]
    carried: Mapping[str, CarriedFeature]
    num_imputations: int = 0


@dataclasses.dataclass(frozen=True)
class MaskedRecord:
    """A record to impute."""

    id: bytes
    image: np.ndarray  # [H, W, C] uint8; anything where missing
    observed: np.ndarray  # [H, W, C] bool, True = observed
    truth: np.ndarray | None = None  # [H, W, C] uint8
    carried: Mapping[str, object] = dataclasses.field(default_factory=dict)
    extra: bytes = b""  # a serialised tf.train.Features of everything else


@dataclasses.dataclass(frozen=True)
class ImputedRecord:
    """A record with its imputations and diagnostics; see `model.imputer.Imputed` for their meaning."""

    masked: MaskedRecord
    imputations: np.ndarray  # [num_imputations, H, W, C] uint8
    mean: np.ndarray  # [H, W, C] float32
    stddev: np.ndarray  # [H, W, C] float32
    diagnostics: Mapping[str, object]  # a value for every name in DIAGNOSTICS


DIAGNOSTICS = {
    "r_hat": np.float32,
    "ess_bulk": np.float32,
    "ess_tail": np.float32,
    "acceptance_rate": np.float32,
    "num_sweeps": np.int64,
    "num_gradients": np.int64,
    "converged": np.bool_,
    "log_prob_observed": np.float32,
}
SCORES = ("missing_fraction", "nll", "brier", "f1")  # of a record, in records.parquet alone
OWN_FEATURES = frozenset(
    ("id", "image", "observed", "truth", "has_truth", "imputations", "mean", "stddev", "extra", *DIAGNOSTICS, *SCORES)
)


# --- tf.train.Example, field by field


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _int(value) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(value)]))


def _float(value) -> tf.train.Feature:
    return tf.train.Feature(float_list=tf.train.FloatList(value=[float(value)]))


def _zlib(array: np.ndarray) -> tf.train.Feature:
    return _bytes(zlib.compress(np.ascontiguousarray(array).tobytes(), _ZLIB_LEVEL))


_ENCODERS = {"int64": _int, "float32": _float, "bytes": _bytes}
_FIELDS = {"int64": "int64_list", "float32": "float_list", "bytes": "bytes_list"}


def _carried_features(schema: Schema, carried: Mapping[str, object]) -> dict[str, tf.train.Feature]:
    return {
        name: _ENCODERS[feature.kind](carried.get(name, feature.default)) for name, feature in schema.carried.items()
    }


def _serialize(features: Mapping[str, tf.train.Feature]) -> bytes:
    # By default the order of a protobuf map differs from process to process.
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def _scalar(features: Mapping[str, tf.train.Feature], name: str, kind: str, record_id: bytes = b""):
    """The one value of a feature, None if it is absent.

    Raises:
        RecordError: another type, or not one value.
    """
    if name not in features or features[name].WhichOneof("kind") is None:
        return None
    values = getattr(features[name], _FIELDS[kind]).value
    if features[name].WhichOneof("kind") != _FIELDS[kind] or len(values) != 1:
        raise RecordError(Reason.BAD_TYPE, f"feature {name!r} must be one {kind} value", record_id)
    return values[0]


# --- images and masks as bytes


def _decode_values(content: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """PNG or raw uint8 -> [H, W, C]; a ValueError says what is wrong, before the pixels are read."""
    if content.startswith(_PNG_SIGNATURE):
        return _decode_png(content, shape)
    if len(content) != math.prod(shape):
        raise ValueError(f"{len(content)} bytes, neither a PNG nor the {math.prod(shape)} of shape {list(shape)}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _decode_png(content: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    height, width, channels = shape
    try:
        with PIL.Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if (image.height, image.width) != (height, width) or image.mode != _PNG_MODES.get(channels):
                raise ValueError(
                    f"{image.height} x {image.width} pixels, mode {image.mode}; "
                    f"expected {height} x {width}, mode {_PNG_MODES.get(channels)}"
                )
            return np.asarray(image, np.uint8).reshape(shape)
    except Exception as error:  # a broken file makes the decoder raise nearly anything
        raise ValueError(f"unusable PNG: {error}") from None


def encode_png(values: np.ndarray) -> bytes:
    """[H, W, C] uint8 -> PNG, the same bytes for the same values."""
    output = io.BytesIO()
    squeezed = values[..., 0] if values.shape[-1] == 1 else values
    PIL.Image.fromarray(squeezed).save(output, format="PNG")
    return output.getvalue()


def _decode_mask(content: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    values = _decode_values(content, shape)
    largest = 255 if content.startswith(_PNG_SIGNATURE) else 1
    if not np.isin(values, (0, largest)).all():
        raise ValueError(f"values other than 0 and {largest}")
    return values > 0


# --- masked records


def decode_masked(payload: bytes, schema: Schema) -> MaskedRecord:
    """Reads and validates the `tf.train.Example` of a masked record.

    Raises:
        RecordError: anything is not as declared.
    """
    features = _parse(payload)
    record_id = _scalar(features, "id", "bytes")
    if not record_id:
        raise RecordError(Reason.NO_ID, "a record needs a non-empty feature 'id' of bytes")

    def decode(name, decoder, reason):
        content = _scalar(features, name, "bytes", record_id)
        if content is None:
            return None
        try:
            return decoder(content, schema.shape)
        except ValueError as error:
            raise RecordError(reason, f"feature {name!r}: {error}", record_id) from None

    image = decode("image", _decode_values, Reason.BAD_IMAGE)
    if image is None:
        raise RecordError(Reason.BAD_IMAGE, "a record needs a feature 'image'", record_id)
    observed = decode("observed", _decode_mask, Reason.BAD_OBSERVED)
    truth = decode("truth", _decode_values, Reason.BAD_TRUTH)
    carried = {
        name: _scalar(features, name, feature.kind, record_id)
        for name, feature in schema.carried.items()
        if name in features
    }
    return MaskedRecord(
        id=record_id,
        image=image,
        observed=np.ones(schema.shape, np.bool_) if observed is None else observed,
        truth=truth,
        carried={name: value for name, value in carried.items() if value is not None},
        extra=_extra(features, schema),
    )


def decode_observed(payload: bytes, schema: Schema) -> tuple[bytes, np.ndarray]:
    """Reads the Example of a mask: `observed` as in a masked record, and `id` unless it is for every record.

    Returns:
        (id, empty if there is none; [H, W, C] bool).

    Raises:
        RecordError: anything is not as declared.
    """
    features = _parse(payload)
    record_id = _scalar(features, "id", "bytes") or b""
    content = _scalar(features, "observed", "bytes", record_id)
    if content is None:
        raise RecordError(Reason.BAD_OBSERVED, "a mask needs a feature 'observed'", record_id)
    try:
        return record_id, _decode_mask(content, schema.shape)
    except ValueError as error:
        raise RecordError(Reason.BAD_OBSERVED, f"feature 'observed': {error}", record_id) from None


def _parse(payload: bytes) -> Mapping[str, tf.train.Feature]:
    try:
        return tf.train.Example.FromString(payload).features.feature
    except DecodeError:
        raise RecordError(Reason.NOT_AN_EXAMPLE, "not a tf.train.Example") from None


def _extra(features: Mapping[str, tf.train.Feature], schema: Schema) -> bytes:
    known = {"id", "image", "observed", "truth", *schema.carried}
    rest = {name: feature for name, feature in features.items() if name not in known}
    return tf.train.Features(feature=rest).SerializeToString(deterministic=True) if rest else b""


def encode_masked(record: MaskedRecord, schema: Schema) -> bytes:
    """The inverse of `decode_masked`; a record to be imputed, as `masked_features` declares it."""
    features = {
        "id": _bytes(record.id),
        "image": _bytes(encode_png(record.image)),
        "observed": _bytes(record.observed.astype(np.uint8).tobytes()),
        **_carried_features(schema, record.carried),
    }
    if record.truth is not None:
        features["truth"] = _bytes(encode_png(record.truth))
    return _serialize(dict(tf.train.Features.FromString(record.extra).feature) | features)


def masked_features(schema: Schema) -> tfds.features.FeaturesDict:
    """features.json of a data set of masked records with truth."""
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=schema.shape, encoding_format="png"),
            "observed": tfds.features.Tensor(shape=schema.shape, dtype=np.bool_, encoding="bytes"),
            "truth": tfds.features.Image(shape=schema.shape, encoding_format="png"),
            **{name: feature.tfds_feature for name, feature in schema.carried.items()},
        }
    )


# --- imputed records


def encode_imputed(record: ImputedRecord, schema: Schema) -> bytes:
    """Serialises an imputed record as `imputed_features` declares it."""
    masked = record.masked
    truth = np.zeros(schema.shape, np.uint8) if masked.truth is None else masked.truth
    diagnostics = {
        name: (_float if dtype is np.float32 else _int)(record.diagnostics[name]) for name, dtype in DIAGNOSTICS.items()
    }
    return _serialize(
        {
            "id": _bytes(masked.id),
            "image": _zlib(np.where(masked.observed, masked.image, 0).astype(np.uint8)),
            "observed": _zlib(masked.observed),
            "truth": _zlib(truth),
            "has_truth": _int(masked.truth is not None),
            "imputations": _zlib(record.imputations),
            "mean": _zlib(record.mean),
            "stddev": _zlib(record.stddev),
            "extra": _bytes(masked.extra),
            **diagnostics,
            **_carried_features(schema, masked.carried),
        }
    )


def decode_imputed(payload: bytes, schema: Schema) -> ImputedRecord:
    """The inverse of `encode_imputed`.

    Raises:
        RecordError: not an imputed record of this schema.
    """
    features = _parse(payload)

    def array(name, shape, dtype):
        expected = math.prod(shape) * np.dtype(dtype).itemsize
        inflater = zlib.decompressobj()
        try:
            content = inflater.decompress(_scalar(features, name, "bytes") or b"", expected)
        except zlib.error as error:
            raise RecordError(Reason.BAD_TYPE, f"feature {name!r}: {error}") from None
        if len(content) != expected or inflater.decompress(inflater.unconsumed_tail, 1):
            raise RecordError(Reason.BAD_TYPE, f"feature {name!r} does not hold {expected} bytes")
        return np.frombuffer(content, dtype).reshape(shape)

    shape = schema.shape
    masked = MaskedRecord(
        id=_scalar(features, "id", "bytes"),
        image=array("image", shape, np.uint8),
        observed=array("observed", shape, np.bool_),
        truth=array("truth", shape, np.uint8) if _scalar(features, "has_truth", "int64") else None,
        carried={name: _scalar(features, name, feature.kind) for name, feature in schema.carried.items()},
        extra=_scalar(features, "extra", "bytes"),
    )
    return ImputedRecord(
        masked,
        array("imputations", (schema.num_imputations, *shape), np.uint8),
        array("mean", shape, np.float32),
        array("stddev", shape, np.float32),
        {
            name: dtype(_scalar(features, name, "float32" if dtype is np.float32 else "int64"))
            for name, dtype in DIAGNOSTICS.items()
        },
    )


def imputed_features(schema: Schema) -> tfds.features.FeaturesDict:
    """features.json of the imputed data set."""

    def tensor(shape, dtype):
        return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="zlib")

    shape = schema.shape
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "image": tensor(shape, np.uint8),
            "observed": tensor(shape, np.bool_),
            "truth": tensor(shape, np.uint8),
            "has_truth": tfds.features.Scalar(dtype=np.bool_),
            "imputations": tensor((schema.num_imputations, *shape), np.uint8),
            "mean": tensor(shape, np.float32),
            "stddev": tensor(shape, np.float32),
            "extra": tfds.features.Text(),
            **{name: tfds.features.Scalar(dtype=dtype) for name, dtype in DIAGNOSTICS.items()},
            **{name: feature.tfds_feature for name, feature in schema.carried.items()},
        }
    )
