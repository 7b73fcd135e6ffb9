"""The names of `import vaefill`: arrays in, arrays out, and a result directory as a table."""

import subprocess
import sys

import numpy as np
import pytest

import vaefill
from vaefill import api

pytestmark = pytest.mark.slow

SHORT = vaefill.sampler_config(
    num_start=2, num_warmup=6, max_sweeps=20, num_imputations=2, num_evidence_draws=0, slots=32
)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def observed(images):
    return vaefill.mask(images, "mcar", rate=0.5)


def test_every_name_is_there_and_says_what_it_is():
    for name in vaefill.__all__:
        assert getattr(vaefill, name).__doc__
    assert set(vaefill.__all__) == set(dir(vaefill))
    with pytest.raises(AttributeError, match="no attribute 'imput'"):
        vaefill.imput  # noqa: B018


def test_the_name_alone_imports_nothing_slow():
    code = "import sys, vaefill; sys.exit(bool({'tensorflow', 'apache_beam'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_masks_depend_on_the_id_and_the_seed(images, observed):
    assert observed.dtype == np.bool_ and 0.4 < observed.mean() < 0.6
    np.testing.assert_array_equal(
        observed, vaefill.mask(images, "mcar", ids=["0", b"1", "2"], rate=0.5)
    )
    for other in ({"ids": ["a", "b", "c"]}, {"seed": 1}):
        assert (observed != vaefill.mask(images, "mcar", rate=0.5, **other)).any()
    with pytest.raises(ValueError, match="unknown mechanism"):
        vaefill.mask(images, "mcr", rate=0.5)


def test_more_is_hidden_of_what_is_observed(images, observed):
    """Whatever stands where nothing is, though the mask may depend on values."""
    for mechanism, parameters in (
        ("mcar", {"rate": 0.5}),
        ("mar", {"rate": 0.5, "slope": 4.0}),
        ("mnar", {"dark": 0.2, "bright": 0.8}),
    ):
        more, again = (
            vaefill.mask(values, mechanism, observed=observed, seed=1, **parameters)
            for values in (images, np.where(observed, images, 255 - images).astype(np.uint8))
        )
        np.testing.assert_array_equal(more, again)
        assert 0.1 < more.mean() < observed.mean() and not (more & ~observed).any()
    of_real = vaefill.mask(images.astype(np.float32), "mcar", rate=0.5)
    np.testing.assert_array_equal(of_real, observed)
    by_value, of_bytes = (
        vaefill.mask(values, "mnar", dark=0.2, bright=0.8, black=0.0, white=255.0)
        for values in (images.astype(np.float32), images)
    )
    np.testing.assert_array_equal(by_value, of_bytes)
    for bad in (observed[:2], observed.astype(np.uint8)):
        with pytest.raises(ValueError, match="observed must be bool .* got "):
            vaefill.mask(images, "mcar", observed=bad, rate=0.5)


def test_ids_of_any_kind_give_the_same_bits(model_directory, images, observed):
    model = vaefill.load_model(model_directory)
    one, two = (
        vaefill.impute(given, images, observed, ids, sampler=SHORT, progress=False)
        for given, ids in ((model, None), (model_directory, [b"0", "1", "2"]))
    )
    assert one.imputations.tobytes() == two.imputations.tobytes()
    assert one.chains.tolist() == [None] * 3


def test_chains_are_kept_when_asked_for(model_directory, images, observed):
    observed = observed.copy()
    observed[0] = True
    found = vaefill.impute(
        model_directory, images, observed, sampler=SHORT, progress=False, keep_chains=True
    )
    assert found.chains[0] is None  # there were none
    for chains in found.chains[1:]:
        assert chains.z.shape == (4, 12, 4) and chains.log_likelihood.shape == (4, 12)


def test_a_truth_that_is_not_known_everywhere_is_left_out(
    model_directory, images, observed, monkeypatch
):
    found, known = [], observed.copy()
    known[1] = True

    def impute(values, observed, ids, truths, report):
        found.extend(truth is not None for truth in truths)

    monkeypatch.setattr(api, "imputer_for", lambda *arguments: impute)
    given = {"truths": images, "progress": False}
    vaefill.impute(model_directory, images, observed, truths_observed=known, **given)
    assert found == [False, True, False]
    with pytest.raises(ValueError, match="truths_observed must be bool .* got "):
        vaefill.impute(model_directory, images, observed, truths_observed=known[0], **given)


@pytest.mark.parametrize(
    "ids, message", [(["a", "b"], "3 records and 2 ids"), (["a", "b", b"a"], "unique")]
)
def test_ids_that_cannot_be(model_directory, images, observed, ids, message):
    with pytest.raises(ValueError, match=message):
        vaefill.impute(model_directory, images, observed, ids, sampler=SHORT)


def test_a_result_as_a_table_and_as_arrays(result):
    found = vaefill.read_result(result)
    vaefill.verify(result)
    assert len(found.table) == len(found.arrays["id"]) == found.manifest.counts.written
    assert found.table.id.tolist() == found.arrays["id"].tolist()
    np.testing.assert_array_equal(found.table.r_hat, found.arrays["r_hat"])
    assert found.arrays["imputations"].ndim == 5 and found.manifest.identity.kind == "impute"


def test_what_was_imputed_value_by_value(result):
    """Of all records, and of those of a label."""
    found = vaefill.read_result(result)
    arrays, some = found.arrays, next(iter(found.summary.by_label))
    for label, chosen in ((None, slice(None)), (some, arrays["label"] == int(some))):
        mean = np.where(arrays["observed"], np.nan, arrays["mean"])[chosen]
        values = found.imputed_values(label)
        never = np.isnan(mean).all(axis=0)
        np.testing.assert_array_equal(np.isnan(values.mean), never)
        np.testing.assert_array_equal(np.isnan(values.stddev), never)
        expected = np.nanmean(mean[:, ~never], axis=0)
        np.testing.assert_allclose(values.mean[~never], expected, rtol=1e-5)
    with pytest.raises(KeyError):
        found.imputed_values("none")


def test_what_is_no_result(tmp_path):
    with pytest.raises(vaefill.ExpectedError, match="not a finished result"):
        vaefill.read_result(tmp_path)


def test_training_is_read_when_it_is_there(tmp_path):
    settings = {"train.epochs": 0.5, "model.hidden": [8], "train.num_test_images": 5}
    first, again = (
        vaefill.train(tmp_path, settings=settings, config="test.yaml", progress=False)
        for _ in range(2)
    )
    assert first.fingerprint == again.fingerprint and first.description.model.hidden == (8,)
