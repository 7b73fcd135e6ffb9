"""Masks: deterministic by record, right in law, and MAR where they say so.

Statistical tests use fixed seeds and exact binomial intervals at FALSE_ALARM per test: were the
seeds fresh, a right generator would fail one run in a million. With n pixels an interval is about
+- 4.9 sqrt(p (1 - p) / n) wide, and a departure of twice that is seen all but surely.
"""

import hashlib
import math

import numpy as np
import pytest

from vaefill.model import missingness

FALSE_ALARM = 1e-6

CASES = {
    "mcar": ("mcar", {"rate": 0.5}),
    "mcar_none_missing": ("mcar", {"rate": 0.0}),
    "mcar_all_missing": ("mcar", {"rate": 1.0}),
    "rows_first": ("rows", {"first": 0, "last": 1}),
    "rows_none_stay": ("rows", {"first": 1, "last": 1}),
    "top_three_quarters": ("top_three_quarters", {}),
    "block_random": ("block", {"height": 1, "width": 1}),
    "block_fixed": ("block", {"height": 1, "width": 1, "top": 0, "left": 0}),
    "half_top": ("half", {"side": "top"}),
    "half_bottom": ("half", {"side": "bottom"}),
    "half_left": ("half", {"side": "left"}),
    "half_right": ("half", {"side": "right"}),
    "mar": ("mar", {"rate": 0.5, "slope": 4.0}),
    "mar_steep": ("mar", {"rate": 0.5, "slope": -100.0}),
    "mnar": ("mnar", {"dark": 0.2, "bright": 0.8}),
    "mnar_dark": ("mnar", {"dark": 0.9, "bright": 0.1, "black": 50, "white": 199.5}),
}
SHAPES = [(1, 1, 1), (1, 1, 3), (1, 6, 1), (6, 1, 1), (5, 8, 3), (8, 5, 2), (28, 28, 1)]

every_case = pytest.mark.parametrize(("name", "parameters"), CASES.values(), ids=CASES.keys())
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


class FixedUniform:
    """A generator whose every uniform is `value`."""

    def __init__(self, value):
        self.value = value

    def random(self, size):
        return np.full(size, self.value)


def random_image(shape=(28, 28, 1), seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def mask(name, image, parameters, seed=0, record_id=b"record"):
    generator = missingness.record_generator(seed, record_id)
    return missingness.generate(name, image, generator, parameters)


def masks(name, image, parameters, count, seed=0):
    """[count, H, W] masks of one image under as many ids."""
    ids = [b"%d" % index for index in range(count)]
    return np.stack([mask(name, image, parameters, seed, i)[:, :, 0] for i in ids])


def binomial_interval(n, p, false_alarm=FALSE_ALARM):
    """The smallest [low, high] outside which each tail of Binomial(n, p) has false_alarm / 2."""
    k = np.arange(n + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    log_choose = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
    pmf = np.exp(log_choose + k * math.log(p) + (n - k) * math.log1p(-p))
    low = np.searchsorted(np.cumsum(pmf), false_alarm / 2, side="right")
    high = n - np.searchsorted(np.cumsum(pmf[::-1]), false_alarm / 2, side="right")
    return int(low), int(high)


def assert_binomial(count, n, p, false_alarm=FALSE_ALARM):
    low, high = binomial_interval(n, p, false_alarm)
    assert low <= count <= high, f"{count} of {n} at p = {p}: outside [{low}, {high}]"


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def logit(p):
    return math.log(p / (1 - p))


def candidates(height, width):
    """The checkerboard colour that `mar` may hide."""
    return np.array([[(i + j) % 2 == 1 for j in range(width)] for i in range(height)])


def test_binomial_interval_is_the_exact_one():
    pmf = [math.comb(20, k) * 0.3**k * 0.7 ** (20 - k) for k in range(21)]
    low, high = binomial_interval(20, 0.3, 0.05)
    assert sum(pmf[:low]) <= 0.025 < sum(pmf[: low + 1])
    assert sum(pmf[high + 1 :]) <= 0.025 < sum(pmf[high:])


# --- every mechanism ---


def test_the_table_of_cases_has_every_mechanism():
    assert {name for name, _ in CASES.values()} == set(missingness.MECHANISMS)


@every_shape
@every_case
def test_mask_is_bool_of_the_shape_and_equal_across_channels(name, parameters, shape):
    """The latter but for `mnar`."""
    image = random_image(shape)
    before = image.copy()
    observed = mask(name, image, parameters)
    assert observed.dtype == bool and observed.shape == shape
    if name != "mnar":
        np.testing.assert_array_equal(observed, np.repeat(observed[:, :, :1], shape[2], axis=2))
    np.testing.assert_array_equal(image, before)


@every_shape
@every_case
def test_mask_is_a_function_of_seed_and_id(name, parameters, shape):
    image = random_image(shape)
    first = mask(name, image, parameters, seed=3, record_id=b"\xff\x00")
    np.random.default_rng(0).random(5)
    mask(name, image, parameters, seed=3, record_id=b"another")
    again = mask(name, image, parameters, seed=3, record_id=b"\xff\x00")
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("name", ["mcar", "block"])
def test_channels_do_not_change_the_mask(name):
    parameters = {"mcar": {"rate": 0.3}, "block": {"height": 4, "width": 5}}[name]
    grey, colour = (mask(name, random_image((9, 11, c)), parameters) for c in (1, 3))
    np.testing.assert_array_equal(grey[:, :, 0], colour[:, :, 0])


@every_case
def test_those_that_say_so_depend_on_the_image(name, parameters):
    one, other = (mask(name, random_image(seed=seed), parameters) for seed in (0, 1))
    assert np.array_equal(one, other) == (name not in missingness.SEE_VALUES)


# --- the generator ---


def test_seeds_and_ids_give_different_streams():
    keys = [(0, b"a"), (0, b"b"), (1, b"a"), (2**64 - 1, b"a"), (0, b"a\x00"), (256, b"a")]
    streams = {missingness.record_generator(*key).random(4).tobytes() for key in keys}
    assert len(streams) == len(keys)


@pytest.mark.parametrize("change", ["seed", "id"])
def test_masks_of_different_seeds_or_ids_are_unrelated(change):
    image = random_image()
    drawn = masks("mcar", image, {"rate": 0.5}, 100)
    if change == "seed":
        one, other = drawn, masks("mcar", image, {"rate": 0.5}, 100, seed=1)
    else:
        one, other = drawn[0::2], drawn[1::2]
    assert_binomial((one == other).sum(), one.size, 0.5)


GOLDEN = {
    "mcar": "fe4ddd90fc9a476635e12b2d94e4e0ce3804a2a532629ca2a10406a829beee28",
    "block": "b841e38b23df7869af61964db9bcedbc197b43f4e460d72f0e830052a38efb88",
    "mar": "41d2f5307e201f65a498637eb678de6bfa1de1c2f97a17b79538ba3fb3ae8195",
    "mnar": "bc50f3d884bbe6ec12d5c97f19b21be22a9e962739c4b18dc4552670e3710bd2",
}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("mcar", {"rate": 0.5}),
        ("block", {"height": 14, "width": 7}),
        ("mar", {"rate": 0.5, "slope": 4.0}),
        ("mnar", {"dark": 0.2, "bright": 0.8}),
    ],
    ids=GOLDEN,
)
def test_the_stream_never_changes(name, parameters):
    """A new digest means that every masked data set changes: never update it in passing."""
    image = (np.arange(28 * 28) % 256).astype(np.uint8).reshape(28, 28, 1)
    observed = mask(name, image, parameters, seed=20140101, record_id=b"golden")
    assert hashlib.sha256(observed.astype(np.uint8).tobytes()).hexdigest() == GOLDEN[name]


# --- laws ---


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.8])
def test_mcar_has_its_rate(rate):
    missing = ~masks("mcar", random_image(), {"rate": rate}, 200)
    assert_binomial(missing.sum(), missing.size, rate)


def test_mcar_neighbours_are_independent():
    missing = ~masks("mcar", random_image(), {"rate": 0.5}, 200)
    for a, b in [(missing[:, 1:], missing[:, :-1]), (missing[:, :, 1:], missing[:, :, :-1])]:
        assert_binomial((a == b).sum(), a.size, 0.5)


def test_mcar_masks_nest():
    drawn = [mask("mcar", random_image(), {"rate": rate}) for rate in (0.0, 0.2, 0.7, 1.0)]
    assert drawn[0].all() and not drawn[-1].any()
    assert all((more | ~less).all() for more, less in zip(drawn, drawn[1:]))


@pytest.mark.parametrize(("name", "more"), [("mcar", {}), ("mar", {"slope": 4.0})])
def test_rate_zero_hides_nothing_even_at_the_uniform_zero(name, more):
    observed = missingness.generate(name, random_image(), FixedUniform(0.0), {"rate": 0.0} | more)
    assert observed.all()


def test_rows_keeps_the_half_open_range():
    observed = mask("rows", random_image((5, 2, 1)), {"first": 1, "last": 3})
    assert observed[:, 0, 0].tolist() == [False, True, True, False, False]


@pytest.mark.parametrize(
    ("height", "stay"), [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (7, 2), (8, 2), (28, 7)]
)
def test_top_three_quarters_keeps_the_bottom_quarter(height, stay):
    observed = mask("top_three_quarters", random_image((height, 3, 1)), {})
    assert observed[:, 0, 0].tolist() == [False] * (height - stay) + [True] * stay


@pytest.mark.parametrize(
    ("side", "rows", "columns"),
    [
        ("top", slice(0, 2), slice(None)),
        ("bottom", slice(3, 5), slice(None)),
        ("left", slice(None), slice(0, 3)),
        ("right", slice(None), slice(3, 6)),
    ],
)
def test_half_hides_its_side_and_leaves_the_middle_line(side, rows, columns):
    expected = np.ones((5, 6, 1), dtype=bool)
    expected[rows, columns] = False
    np.testing.assert_array_equal(mask("half", random_image((5, 6, 1)), {"side": side}), expected)


def test_block_places_are_uniform():
    count, places = 3000, {}
    for missing in ~masks("block", random_image((3, 4, 1)), {"height": 2, "width": 2}, count):
        top, left = np.argwhere(missing)[0]
        assert missing.sum() == 4 and missing[top : top + 2, left : left + 2].all()
        places[top, left] = places.get((top, left), 0) + 1
    assert sorted(places) == [(top, left) for top in range(2) for left in range(3)]
    for number in places.values():
        assert_binomial(number, count, 1 / 6, FALSE_ALARM / 6)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53], ids=["least", "greatest"])
def test_block_stays_inside_at_the_ends_of_the_uniform(uniform):
    image = random_image((7, 28, 1))
    missing = ~missingness.block(image, FixedUniform(uniform), height=3, width=5)
    corner = (0, 0) if uniform == 0 else (4, 23)
    assert tuple(np.argwhere(missing)[0][:2]) == corner and missing.sum() == 15


def test_block_draws_one_coordinate_whether_or_not_the_other_is_fixed():
    image, size = random_image(), {"height": 4, "width": 5}
    free = mask("block", image, size)
    top, left = (int(index) for index in np.argwhere(~free)[0][:2])
    for fixed in ({"top": top}, {"left": left}, {"top": top, "left": left}):
        np.testing.assert_array_equal(mask("block", image, size | fixed), free)


# --- missing at random ---


def mar_probability(image, rate, slope):
    """[H, W] the law of `mar`, pixel by pixel; 0 on the colour that stays."""
    height, width, _ = image.shape
    probability = np.zeros((height, width))
    for i, j in np.argwhere(candidates(height, width)):
        around = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
        inside = [image[k, l] / 255 for k, l in around if 0 <= k < height and 0 <= l < width]
        probability[i, j] = sigmoid(logit(rate) + slope * (np.mean(inside) - 0.5))
    return probability


@pytest.mark.parametrize("shape", [(1, 2, 1), (2, 1, 3), (5, 8, 3), (9, 4, 1)], ids=str)
@pytest.mark.parametrize("slope", [-3.0, 0.0, 5.0])
def test_mar_has_its_law_pixel_by_pixel(shape, slope):
    image = random_image(shape)
    probability = mar_probability(image, 0.4, slope)
    for uniform in (0.011, 0.237, 0.5003, 0.7717, 0.983):
        observed = missingness.mar(image, FixedUniform(uniform), rate=0.4, slope=slope)
        np.testing.assert_array_equal(~observed[:, :, 0], uniform < probability)


@pytest.mark.parametrize("grey", [0, 51, 255])
def test_mar_has_its_rate_on_a_flat_image(grey):
    image = np.full((28, 28, 1), grey, dtype=np.uint8)
    missing = ~masks("mar", image, {"rate": 0.3, "slope": 2.0}, 200)
    assert not missing[:, ~candidates(28, 28)].any()
    p = sigmoid(logit(0.3) + 2.0 * (grey / 255 - 0.5))
    assert_binomial(missing.sum(), 200 * 28 * 28 // 2, p)


def test_mar_hides_more_of_a_bright_image_as_the_slope_grows():
    image = np.full((28, 28, 1), 230, dtype=np.uint8)
    slopes = (-100.0, -4.0, 0.0, 4.0, 100.0)
    counts = [(~mask("mar", image, {"rate": 0.5, "slope": s})).sum() for s in slopes]
    assert counts[0] == 0 and counts[-1] == image.size // 2
    assert counts == sorted(set(counts))


def test_mar_of_slope_zero_is_mcar_on_its_colour():
    image = random_image((9, 11, 3))
    flat, free = mask("mar", image, {"rate": 0.6, "slope": 0.0}), mask("mcar", image, {"rate": 0.6})
    colour = candidates(9, 11)
    np.testing.assert_array_equal(flat[colour], free[colour])
    assert flat[~colour].all()


@pytest.mark.parametrize("slope", [-100.0, 0.0, 100.0])
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_mar_at_the_ends_of_the_rate(rate, slope):
    missing = ~mask("mar", random_image(), {"rate": rate, "slope": slope})[:, :, 0]
    np.testing.assert_array_equal(missing, candidates(28, 28) & (rate == 1.0))


def mask_survives_new_missing_values(mechanism, parameters, image, records=20, scrambles=5):
    """Whether masks stay when what they hide is replaced: a sufficient condition for MAR.

    With the uniforms u fixed, the mask is a function r(image, u). If r(x, u) = r(x', u) whenever x
    and x' agree on the entries that r(x, u) observes, then P(r | x) = P(r | x').
    """
    noise = np.random.default_rng(1)
    for index in range(records):
        record_id = b"%d" % index
        observed = mechanism(image, missingness.record_generator(0, record_id), **parameters)
        for _ in range(scrambles):
            other = np.where(observed, image, noise.integers(0, 256, image.shape, dtype=np.uint8))
            again = mechanism(other, missingness.record_generator(0, record_id), **parameters)
            if not np.array_equal(observed, again):
                return False
    return True


def hides_bright_pixels(image, generator, *, rate, slope):
    """Not MAR: a pixel is missing by its own value."""
    p = 1 / (1 + np.exp(-(logit(rate) + slope * (image[:, :, 0] / 255 - 0.5))))
    return np.repeat(generator.random(p.shape)[:, :, None] >= p[:, :, None], image.shape[2], axis=2)


def hides_next_to_bright_pixels(image, generator, *, rate, slope):
    """Not MAR, by a slip: missing by the pixel on the left, which may itself be missing."""
    return hides_bright_pixels(np.roll(image, 1, axis=1), generator, rate=rate, slope=slope)


@pytest.mark.parametrize("shape", [(1, 6, 1), (5, 8, 3), (28, 28, 1)], ids=str)
@every_case
def test_mask_depends_on_observed_values_only(name, parameters, shape):
    """But for `mnar`, which is seen not to."""
    mechanism = missingness.MECHANISMS[name]
    survives = mask_survives_new_missing_values(mechanism, parameters, random_image(shape))
    assert survives == (name != "mnar")


@pytest.mark.parametrize("wrong", [hides_bright_pixels, hides_next_to_bright_pixels])
@pytest.mark.parametrize("shape", [(1, 6, 1), (5, 8, 3), (28, 28, 1)], ids=str)
def test_the_check_sees_a_mechanism_that_is_not_mar(wrong, shape):
    parameters = {"rate": 0.5, "slope": 4.0}
    assert not mask_survives_new_missing_values(wrong, parameters, random_image(shape))


# --- missing not at random ---


def mnar_probability(values, dark, bright, black, white):
    """The law of `mnar`, value by value."""
    level = (values.astype(float) - black) / (white - black)
    return 1 / (1 + np.exp(-((1 - level) * logit(dark) + level * logit(bright))))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 1), (5, 8, 3)], ids=str)
@pytest.mark.parametrize(("dark", "bright"), [(0.2, 0.8), (0.9, 0.05), (0.4, 0.4)])
def test_mnar_has_its_law_value_by_value(shape, dark, bright):
    real = np.random.default_rng(0).normal(3.0, 40.0, shape).astype(np.float32)
    for values, ends in ((random_image(shape), {}), (real, {"black": -20.5, "white": 30})):
        probability = mnar_probability(
            values, dark, bright, ends.get("black", 0), ends.get("white", 255)
        )
        for uniform in (0.011, 0.237, 0.5003, 0.7717, 0.983):
            observed = missingness.mnar(
                values, FixedUniform(uniform), dark=dark, bright=bright, **ends
            )
            np.testing.assert_array_equal(~observed, uniform < probability)


@pytest.mark.parametrize("shape", [(28, 28, 1), (9, 11, 3)], ids=str)
def test_mnar_has_both_its_rates_on_binary_images(shape):
    image = np.where(random_image(shape) > 190, 255, 0).astype(np.uint8)
    ids = [b"%d" % index for index in range(200)]
    missing = ~np.stack(
        [mask("mnar", image, {"dark": 0.2, "bright": 0.7}, record_id=i) for i in ids]
    )
    for value, rate in ((0, 0.2), (255, 0.7)):
        chosen = missing[:, image == value]
        assert_binomial(chosen.sum(), chosen.size, rate, FALSE_ALARM / 2)


def test_mnar_hides_values_and_channels_each_by_itself():
    image = np.full((28, 28, 3), 255, np.uint8)
    observed = np.stack(
        [mask("mnar", image, {"dark": 0.1, "bright": 0.5}, record_id=b"%d" % i) for i in range(100)]
    )
    for a, b in (
        (observed[..., 0], observed[..., 1]),
        (observed[..., 0], observed[..., 2]),
        (observed[:, 1:], observed[:, :-1]),
        (observed[:, :, 1:], observed[:, :, :-1]),
    ):
        assert_binomial((a == b).sum(), a.size, 0.5, FALSE_ALARM / 4)


@pytest.mark.parametrize("uniform", [2**-53, 1 - 2**-53], ids=["least", "greatest"])
def test_mnar_keeps_rates_of_zero_and_one_at_their_ends(uniform):
    """Also where only one is on either side, and beyond the ends, as far as float32 goes."""
    values = np.array([-3e38, 0, 0.25, 0.75, 1, 3e38], np.float32).reshape(1, 6, 1)
    for dark, bright in ((0.0, 1.0), (1.0, 0.0)):
        observed = missingness.mnar(
            values, FixedUniform(uniform), dark=dark, bright=bright, black=0.0, white=1.0
        )
        assert observed.ravel().tolist() == [dark == 0] * 3 + [bright == 0] * 3
    ends = np.uint8([[[0], [255]]])
    for rates, expected in (((0.0, 0.5), True), ((1.0, 0.5), False)):
        dark, bright = rates
        observed = missingness.mnar(ends, FixedUniform(uniform), dark=dark, bright=bright)
        assert observed[0, 0, 0] == expected and observed[0, 1, 0] == (uniform > 0.5)
    for rate in (0.0, 1.0):
        observed = missingness.mnar(ends, FixedUniform(uniform), dark=rate, bright=rate)
        assert (observed == (rate == 0)).all()


def test_mnar_of_equal_rates_is_mcar_of_values():
    image = random_image()
    np.testing.assert_array_equal(
        mask("mnar", image, {"dark": 0.6, "bright": 0.6}), mask("mcar", image, {"rate": 0.6})
    )


def test_mnar_of_bytes_is_mnar_of_the_same_real_values():
    image, rates = random_image((5, 8, 3)), {"dark": 0.3, "bright": 0.6}
    of_real = mask("mnar", image.astype(np.float32), rates | {"black": 0, "white": 255})
    np.testing.assert_array_equal(of_real, mask("mnar", image, rates))


# --- errors: one line, the value and the fix ---


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("mcra", {}, "unknown mechanism 'mcra': the nearest is 'mcar'; known are mcar, rows"),
        (None, {}, "unknown mechanism None"),
        ("mcar", {}, "mechanism 'mcar' needs the parameter 'rate'"),
        ("mcar", {"rat": 0.5}, "unknown parameter of mcar 'rat': the nearest is 'rate'"),
        ("mcar", {"rate": 1.5}, "rate must be a number from 0 to 1, got 1.5"),
        ("mcar", {"rate": float("nan")}, "rate must be a number from 0 to 1, got nan"),
        ("mcar", {"rate": "0.5"}, "rate must be a number from 0 to 1, got '0.5'"),
        ("mcar", {"rate": True}, "rate must be a number from 0 to 1, got True"),
        ("rows", {"first": -1, "last": 3}, r"first must be an integer from 0 to 5 .*, got -1"),
        ("rows", {"first": 3, "last": 2}, r"last must be an integer from 3 to 5 .*, got 2"),
        ("rows", {"first": 0, "last": 6}, r"last .* for an image of shape \[5, 4, 1\], got 6"),
        ("rows", {"first": 0, "last": 2.0}, r"last must be an integer .*, got 2.0"),
        ("top_three_quarters", {"rate": 0.5}, "'rate': there is none to set; leave it out"),
        ("block", {"height": 6, "width": 1}, r"height must be an integer from 1 to 5 .*, got 6"),
        ("block", {"height": 1, "width": 5}, r"width must be an integer from 1 to 4 .*, got 5"),
        ("block", {"height": 0, "width": 1}, r"height must be an integer from 1 to 5 .*, got 0"),
        ("block", {"height": 3, "width": 1, "top": 3}, r"top .* from 0 to 2 .*, got 3"),
        ("block", {"height": 3, "width": 2, "left": -1}, r"left .* from 0 to 2 .*, got -1"),
        ("half", {"side": "botom"}, "unknown side 'botom': the nearest is 'bottom'"),
        ("mar", {"rate": -0.1, "slope": 0}, "rate must be a number from 0 to 1, got -0.1"),
        ("mar", {"rate": 0.5, "slope": 101}, "slope must be a number from -100 to 100, got 101"),
        ("mar", {"rate": 0.5, "slope": math.inf}, "slope must be .*, got inf"),
        ("mnar", {"dark": 0.5}, "mechanism 'mnar' needs the parameter 'bright'"),
        ("mnar", {"dark": -1, "bright": 0}, "dark must be a number from 0 to 1, got -1"),
        ("mnar", {"dark": 0, "bright": math.nan}, "bright must be a number from 0 to 1, got nan"),
        (
            "mnar",
            {"dark": 0, "bright": 1, "black": 7.0, "white": 7},
            "black must be less than white, got 7.0 and 7",
        ),
        ("mnar", {"dark": 0, "bright": 1, "white": math.inf}, "white must be .*, got inf"),
    ],
)
def test_bad_parameters_are_named(name, parameters, message):
    with pytest.raises(ValueError, match=message) as error:
        mask(name, random_image((5, 4, 1)), parameters)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"got shape \[4, 4\]; a single channel is \[H, W, 1\]"),
        (np.zeros((0, 4, 1), np.uint8), r"none of them 0, got shape \[0, 4, 1\]"),
        (np.zeros((4, 4, 1), np.float64), "must be a uint8 (or float32 )?array, got float64"),
        ([[[0]]], "must be a uint8 (or float32 )?array, got list"),
    ],
    ids=["no_channel", "empty", "float", "list"],
)
@every_case
def test_bad_images_are_named(name, parameters, image, message):
    with pytest.raises(ValueError, match=message):
        mask(name, image, parameters)


@pytest.mark.parametrize("name", sorted(set(missingness.MECHANISMS) - {"mnar"}))
def test_real_values_are_for_mnar_alone(name):
    parameters = dict(CASES.values())[name]
    with pytest.raises(ValueError, match="image must be a uint8 array, got float32; scale grey"):
        mask(name, np.zeros((4, 4, 1), np.float32), parameters)


@pytest.mark.parametrize(
    ("value", "ends", "message"),
    [
        (0.5, {}, "real values need black and white, the values at which"),
        (0.5, {"black": 0.0}, "real values need black and white"),
        (math.nan, {"black": 0.0, "white": 1.0}, "real values must be finite"),
    ],
)
def test_bad_real_values_are_named(value, ends, message):
    with pytest.raises(ValueError, match=message):
        mask("mnar", np.full((2, 2, 1), value, np.float32), {"dark": 0.1, "bright": 0.2} | ends)


@pytest.mark.parametrize(
    ("seed", "record_id", "message"),
    [
        (-1, b"a", "seed must be an integer from 0 to 18446744073709551615, got -1"),
        (2**64, b"a", "seed must be an integer"),
        (0.0, b"a", "seed must be an integer .*, got 0.0"),
        (0, "a", "record_id must be non-empty bytes, got 'a'; encode a text id"),
        (0, b"", "record_id must be non-empty bytes, got b''"),
    ],
)
def test_bad_keys_are_named(seed, record_id, message):
    with pytest.raises(ValueError, match=message):
        missingness.record_generator(seed, record_id)
