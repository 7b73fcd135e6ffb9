"""Generators of missingness: which values of a record are hidden, each law under a name.

A mechanism is `mechanism(image, generator, *, parameters) -> observed`:

  image:     [H, W, C] uint8, the complete record; of `mnar` also float32
  generator: the only source of chance; `record_generator` gives a record its own
  observed:  [H, W, C] bool, True = observed; a pixel's channels are hidden together but by `mnar`

| name                 | what is missing                       | parameters                       |
| -------------------- | ------------------------------------- | -------------------------------- |
| `mcar`               | each pixel with probability `rate`    | rate: 0 to 1                     |
| `rows`               | every row outside [first, last)       | 0 <= first <= last <= H          |
| `top_three_quarters` | the top floor(3 H / 4) rows           | none                             |
| `block`              | a rectangle, at a drawn or given spot | height: 1 to H, width: 1 to W,   |
|                      |                                       | top: None or 0 to H - height,    |
|                      |                                       | left: None or 0 to W - width     |
| `half`               | the half on `side`                    | side: top, bottom, left or right |
| `mar`                | pixels of one checkerboard colour, by | rate: 0 to 1,                    |
|                      | the values of their neighbours        | slope: -100 to 100               |
| `mnar`               | each value by what it is itself       | dark, bright: 0 to 1,            |
|                      |                                       | black < white, of real values    |

All but the last two are missing completely at random: the mask does not depend on the image. `mar`
is missing at random: the mask depends on observed values only. Both kinds are ignorable for
inference about what is missing (Rubin 1976), so that an imputer need not model the mask. `mnar` is
missing not at random: that a value is missing says something of it, and an imputer that ignores
this is biased, by how much `mnar` lets one find out.

A mechanism's signature is the one place where its parameters are declared: names, types, ranges
that hold for images of every shape, and what each means.

Uniforms come from `Generator.random` alone, and their number does not depend on the data. Bad
images and parameters raise ValueError: one line with the value and the fix.

References:
  Rubin, D. B. (1976). Inference and missing data. Biometrika 63(3), 581-592.
  Seaman, S., Galati, J., Jackson, D. and Carlin, J. (2013). What is meant by "missing at random"?
    Statistical Science 28(2), 257-268.
  Rezende, D. J., Mohamed, S. and Wierstra, D. (2014). Stochastic backpropagation and approximate
    inference in deep generative models. ICML; appendix F fills in missing pixels.
  Ipsen, N. B., Mattei, P.-A. and Frellsen, J. (2021). not-MIWAE: Deep generative modelling with
    missing not at random data. ICLR; `mnar` is what it calls self-masking.
"""

import difflib
import hashlib
import inspect
import numbers
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

Side = Literal["top", "bottom", "left", "right"]
SIDES = typing.get_args(Side)
MAX_SLOPE = 100.0  # e^(100 / 2) is all but a step, and far from overflow
_Slope = Annotated[float, Field(ge=-MAX_SLOPE, le=MAX_SLOPE)]
_LARGEST_REAL = float(np.finfo(np.float32).max)
_LARGEST_LOG_ODDS = 1000.0  # of which the sigmoid is 1 in float64, and of its negative 0


def record_generator(seed: int, record_id: bytes) -> np.random.Generator:
    """The generator of one record's mask: a pure function of the seed and the record's id.

    Philox, counter at 0, keyed by the 16-byte BLAKE2b hash of the id under the seed as its key
    (8 bytes, little-endian). The hash is personalised, so that no other use of seed and id gets
    the same stream.

    Args:
      seed: 0 to 2**64 - 1.
      record_id: the record's name, not empty.

    Raises:
      ValueError: seed out of range, or an id that is empty or not bytes.
    """
    _check_integer("seed", seed, 0, 2**64 - 1)
    if not isinstance(record_id, bytes) or not record_id:
        raise ValueError(f"record_id must be non-empty bytes, got {record_id!r}; encode a text id")
    key = int(seed).to_bytes(8, "little")
    digest = hashlib.blake2b(record_id, digest_size=16, key=key, person=b"vaefill.mask").digest()
    words = np.frombuffer(digest, dtype="<u8").astype(np.uint64)
    return np.random.Generator(np.random.Philox(key=words))


def mcar(
    image: np.ndarray,
    generator: np.random.Generator,
    *,
    rate: Annotated[float, Field(ge=0, le=1, description="probability of missing")],
) -> np.ndarray:
    """Every pixel is missing with probability `rate`, independently (MCAR; Rubin 1976).

    Rezende et al. (2014, App. F) fill in images with pixels missing in this way. A record's masks
    nest: what is missing at one rate is missing at every larger one.

    Args:
      image: [H, W, C] uint8; only its shape is used.
      generator: gives H W uniforms.
      rate: 0 to 1.

    Returns:
      observed: [H, W, C] bool.
    """
    height, width, _ = _shape(image)
    _check_real("rate", rate, 0, 1)
    return _observed(image, generator.random((height, width)) < rate)


def rows(
    image: np.ndarray,
    generator: np.random.Generator,
    *,
    first: Annotated[int, Field(ge=0, description="the first row that stays")],
    last: Annotated[int, Field(ge=0, description="one past the last row that stays")],
) -> np.ndarray:
    """The rows first, ..., last - 1 stay observed and all others are missing.

    Args:
      image: [H, W, C] uint8; only its shape is used.
      generator: not used; the mask is fixed.
      first: the first row that stays, 0 to H.
      last: one past the last row that stays, first to H; first == last leaves nothing observed.

    Returns:
      observed: [H, W, C] bool.
    """
    del generator
    height, width, _ = _shape(image)
    _check_integer("first", first, 0, height, image)
    _check_integer("last", last, first, height, image)
    missing = np.ones((height, width), dtype=bool)
    missing[first:last] = False
    return _observed(image, missing)


def top_three_quarters(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The bottom quarter stays observed: a hard preset of `rows` for any H.

    Missing are floor(3 H / 4) rows, so that one row stays at least: of 28 rows the last 7.

    Args:
      image: [H, W, C] uint8; only its shape is used.
      generator: not used; the mask is fixed.

    Returns:
      observed: [H, W, C] bool.
    """
    height, _, _ = _shape(image)
    return rows(image, generator, first=3 * height // 4, last=height)


def block(
    image: np.ndarray,
    generator: np.random.Generator,
    *,
    height: Annotated[int, Field(ge=1, description="rows of the missing rectangle")],
    width: Annotated[int, Field(ge=1, description="columns of it")],
    top: Annotated[int | None, Field(ge=0, description="its first row; absent: random")] = None,
    left: Annotated[int | None, Field(ge=0, description="its first column; absent: random")] = None,
) -> np.ndarray:
    """A rectangle is missing, at a given place or at one drawn uniformly for each record (MCAR).

    To fix one coordinate does not change the draw of the other.

    Args:
      image: [H, W, C] uint8; only its shape is used.
      generator: gives two uniforms.
      height: rows of the rectangle, 1 to H.
      width: columns of the rectangle, 1 to W.
      top: its first row, 0 to H - height; None draws it.
      left: its first column, 0 to W - width; None draws it.

    Returns:
      observed: [H, W, C] bool.
    """
    image_height, image_width, _ = _shape(image)
    _check_integer("height", height, 1, image_height, image)
    _check_integer("width", width, 1, image_width, image)
    u_top, u_left = generator.random(2)
    top = int(u_top * (image_height - height + 1)) if top is None else top
    left = int(u_left * (image_width - width + 1)) if left is None else left
    _check_integer("top", top, 0, image_height - height, image)
    _check_integer("left", left, 0, image_width - width, image)
    missing = np.zeros((image_height, image_width), dtype=bool)
    missing[top : top + height, left : left + width] = True
    return _observed(image, missing)


def half(
    image: np.ndarray,
    generator: np.random.Generator,
    *,
    side: Annotated[Side, Field(description="the half that is missing")],
) -> np.ndarray:
    """The half on `side` is missing; the middle line of an odd number of lines stays observed.

    Args:
      image: [H, W, C] uint8; only its shape is used.
      generator: not used; the mask is fixed.
      side: the half that is missing: `top`, `bottom`, `left` or `right`.

    Returns:
      observed: [H, W, C] bool.
    """
    del generator
    height, width, _ = _shape(image)
    _check_known("side", side, SIDES)
    missing = np.zeros((height, width), dtype=bool)
    lines = missing if side in ("top", "bottom") else missing.T
    count = len(lines) // 2
    if side in ("top", "left"):
        lines[:count] = True
    else:
        lines[len(lines) - count :] = True
    return _observed(image, missing)


def mar(
    image: np.ndarray,
    generator: np.random.Generator,
    *,
    rate: Annotated[float, Field(ge=0, le=1, description="probability of missing at mid-grey")],
    slope: Annotated[_Slope, Field(description="log-odds from black to white")],
) -> np.ndarray:
    """Pixels of one checkerboard colour are missing by the values of their neighbours (MAR).

    Pixels (i, j) with i + j even, the corner (0, 0) among them, are always observed. Each other
    pixel is missing, independently given the image, with probability

      p = sigmoid(logit(rate) + slope (m - 1/2)),

    where m in [0, 1] is the mean of image / 255 over the pixels above, below, left and right of it
    that exist (one does: above or left) and all channels. With slope 0 this is `mcar`, bit for bit
    up to the rounding of p, on that colour. At m = 1/2 a share `rate` of the colour is missing, so
    about rate / 2 of the image.

    Why it is missing at random: neighbours have the other colour, so every p is a function of
    pixels that no mask hides. Hence P(observed | image) has the same value at any two images that
    agree where `observed` is true, for every mask and not only for the one drawn: "everywhere MAR"
    (Rubin 1976; Seaman et al. 2013).

    That holds for the values in `image`. For a model that sees them binarised, hand in the image
    binarised (0 and 255) by the same rule: a mask that follows grey values which the model does
    not see can tell about the missing ones, and is not missing at random for that model.

    Args:
      image: [H, W, C] uint8.
      generator: gives H W uniforms.
      rate: probability of missing where m = 1/2, 0 to 1; at 0 and 1 slope has no effect.
      slope: change of the log-odds of missing from black to white neighbours, -100 to 100.

    Returns:
      observed: [H, W, C] bool.
    """
    height, width, _ = _shape(image)
    _check_real("rate", rate, 0, 1)
    _check_real("slope", slope, -MAX_SLOPE, MAX_SLOPE)
    candidate = np.indices((height, width)).sum(axis=0) % 2 == 1
    # The odds form of the sigmoid: exact at rates 0 and 1, where the logit is infinite.
    odds_against = np.exp(-slope * (_neighbour_mean(image) - 0.5))
    probability = rate / (rate + (1 - rate) * odds_against)
    return _observed(image, candidate & (generator.random((height, width)) < probability))


def mnar(
    image: np.ndarray,
    generator: np.random.Generator,
    *,
    dark: Annotated[float, Field(ge=0, le=1, description="probability of missing of black")],
    bright: Annotated[float, Field(ge=0, le=1, description="probability of missing of white")],
    black: Annotated[float | None, Field(description="what counts as black, of bytes 0")] = None,
    white: Annotated[float | None, Field(description="what counts as white, of bytes 255")] = None,
) -> np.ndarray:
    """Every value is missing by what it is itself: missing not at random (MNAR), by self-masking.

    A black value is missing with probability `dark` and a white one with probability `bright`,
    independently given the image. Of binary images that is all. In between, and beyond, log-odds go
    evenly with the value: where x = (value - black) / (white - black),

      p = sigmoid((1 - x) logit(dark) + x logit(bright)),

    the self-masking of Ipsen et al. (2021), sigmoid(a + b x), said by its rates at both ends. A
    rate of 0 or 1 is kept exactly at its own end, and counts as log-odds of -+1000 elsewhere. With
    dark = bright this is `mcar` of every value by itself, up to the rounding of p.

    As for `mar`, the values that count are those in `image`: hand in what the model sees.

    Args:
      image: [H, W, C] uint8, or real values as float32, which must be finite.
      generator: gives H W C uniforms.
      dark: probability of missing where a value is black, 0 to 1.
      bright: probability of missing where a value is white, 0 to 1.
      black: the value that counts as black, wherever it stands; real values need it, of bytes it
        is 0.
      white: the value that counts as white, larger; real values need it, of bytes it is 255.

    Returns:
      observed: [H, W, C] bool; a pixel's channels are hidden each by itself.
    """
    shape = _shape(image, (np.uint8, np.float32))
    _check_real("dark", dark, 0, 1)
    _check_real("bright", bright, 0, 1)
    black, white = _ends(image, black, white)
    level = (image.astype(np.float64) - black) / (white - black)
    log_odds = (1 - level) * _logit(dark) + level * _logit(bright)
    with np.errstate(over="ignore"):
        probability = 1 / (1 + np.exp(-log_odds))
    return generator.random(shape) >= probability


# Those that look at values; of the others an image is its shape
SEE_VALUES = frozenset({"mar", "mnar"})

MECHANISMS: dict[str, Callable[..., np.ndarray]] = {
    function.__name__: function
    for function in (mcar, rows, top_three_quarters, block, half, mar, mnar)
}


class Parameter(NamedTuple):
    """A parameter of a mechanism."""

    type: Any  # its type, annotated with what it means and its range
    is_required: bool


def parameters_of(name: str) -> dict[str, Parameter]:
    """The parameters that the mechanism `name` takes, by their names."""
    return {
        key: Parameter(each.annotation, each.default is each.empty)
        for key, each in inspect.signature(MECHANISMS[name]).parameters.items()
        if each.kind is each.KEYWORD_ONLY
    }


def generate(
    name: str,
    image: np.ndarray,
    generator: np.random.Generator,
    parameters: Mapping[str, Any],
) -> np.ndarray:
    """The mask of `image` by the mechanism `name`.

    Args:
      name: a key of MECHANISMS.
      image: [H, W, C] uint8; of `mnar` also float32.
      generator: the record's own, from `record_generator`.
      parameters: the mechanism's keyword arguments.

    Returns:
      observed: [H, W, C] bool.

    Raises:
      ValueError: unknown name; a parameter unknown, absent or out of range; an image of another
        kind. One line with the value and the fix.
    """
    _check_known("mechanism", name, MECHANISMS)
    _check_parameters(name, parameters)
    return MECHANISMS[name](image, generator, **parameters)


def _observed(image: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """From missing pixels [H, W] to observed values [H, W, C]."""
    return np.repeat(~missing[:, :, np.newaxis], image.shape[2], axis=2)


def _neighbour_mean(image: np.ndarray) -> np.ndarray:
    """[H, W] mean of image / 255 over neighbours and channels; the sums are exact integers."""
    total = _neighbour_sum(image.sum(axis=2, dtype=np.int64))
    count = _neighbour_sum(np.full(image.shape[:2], image.shape[2]))
    return total / (255 * np.maximum(count, 1))  # only a 1 x 1 image has a pixel without any


def _neighbour_sum(values: np.ndarray) -> np.ndarray:
    """[H, W] sum of the values above, below, left and right, 0 beyond the edge."""
    padded = np.pad(values, 1)
    return padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]


def _logit(rate: float) -> float:
    """log(rate / (1 - rate)), within what a sigmoid makes 0 and 1 of."""
    with np.errstate(divide="ignore"):
        log_odds = np.log(rate) - np.log1p(-rate)
    return float(np.clip(log_odds, -_LARGEST_LOG_ODDS, _LARGEST_LOG_ODDS))


def _ends(image: np.ndarray, black: float | None, white: float | None) -> tuple[float, float]:
    """The values that count as black and as white, by default those of bytes, or ValueError."""
    if image.dtype == np.uint8:
        black, white = 0.0 if black is None else black, 255.0 if white is None else white
    elif not np.isfinite(image).all():
        raise ValueError("real values must be finite; say by `observed` which of them are missing")
    if black is None or white is None:
        raise ValueError(
            "real values need black and white, the values at which the rates dark and bright hold"
        )
    for name, value in (("black", black), ("white", white)):
        _check_real(name, value, -_LARGEST_REAL, _LARGEST_REAL)
    if not black < white:
        raise ValueError(f"black must be less than white, got {black!r} and {white!r}")
    return float(black), float(white)


def _shape(
    image: np.ndarray, kinds: tuple[type[np.generic], ...] = (np.uint8,)
) -> tuple[int, int, int]:
    """(H, W, C) of an image of one of some types, or ValueError."""
    if not isinstance(image, np.ndarray) or image.dtype not in kinds:
        kind = getattr(image, "dtype", type(image).__name__)
        names = " or ".join(each.__name__ for each in kinds)
        raise ValueError(
            f"image must be a {names} array, got {kind}; scale grey values to 0 to 255"
        )
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(
            f"image must be [H, W, C], none of them 0, got shape {list(image.shape)}; "
            "a single channel is [H, W, 1]"
        )
    return image.shape


def _check_integer(
    name: str, value: Any, low: int, high: int, image: np.ndarray | None = None
) -> None:
    integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not (integer and low <= value <= high):
        where = "" if image is None else f" for an image of shape {list(image.shape)}"
        raise ValueError(f"{name} must be an integer from {low} to {high}{where}, got {value!r}")


def _check_real(name: str, value: Any, low: float, high: float) -> None:
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (real and low <= value <= high):  # NaN is refused here
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}, got {value!r}")


def _check_known(kind: str, name: Any, known: Collection[str]) -> None:
    if name in known:
        return
    if not known:
        raise ValueError(f"unknown {kind} {name!r}: there is none to set; leave it out")
    nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)[0]
    raise ValueError(
        f"unknown {kind} {name!r}: the nearest is {nearest!r}; known are {', '.join(known)}"
    )


def _check_parameters(name: str, parameters: Mapping[str, Any]) -> None:
    """Every parameter is one of the mechanism's, and those without a default are there."""
    known = parameters_of(name)
    for key in parameters:
        _check_known(f"parameter of {name}", key, known)
    for key, parameter in known.items():
        if parameter.is_required and key not in parameters:
            raise ValueError(f"mechanism {name!r} needs the parameter {key!r}, got none; set it")
