"""The configuration: what is packaged is valid, every mistake is one clear line."""

import glob
import os
import pickle
import subprocess
import sys

import pytest

from vaefill import config
from vaefill.errors import ConfigError
from vaefill.model import missingness, samplers

PACKAGED = sorted(os.path.basename(path) for path in glob.glob(config.packaged("*.yaml")))


def test_the_promised_configurations_are_there():
    assert {"demo.yaml", "mnist.yaml", "test.yaml"} <= set(PACKAGED)


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_configurations_are_valid_by_name_and_path(name):
    assert config.load(name) == config.load(config.packaged(name))


def test_settings_override_the_file():
    loaded = config.load(
        "test.yaml", ["sampler.num_chains=8", "record.carry={label: bytes}", "model.hidden=[3, 4]"]
    )
    assert loaded.sampler.num_chains == 8
    assert loaded.record.carry == {"label": "bytes"}
    assert loaded.model.hidden == (3, 4)
    assert loaded.output == config.load("test.yaml").output


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "0.001", "1E-03"])
def test_numbers_may_have_an_exponent(text):
    assert config.load(None, [f"train.learning_rate={text}"]).train.learning_rate == 1e-3


def test_an_empty_section_is_its_defaults_and_may_be_added_to(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("train:\n")
    assert config.load(str(path), ["train.epochs=3.0"]).train.epochs == 3.0


def test_the_configuration_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        config.load().seed = 3


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "sampler.num_chain=4",
            "unknown key sampler.num_chain; the nearest known one is sampler.num_chains",
        ),
        ("trian.epochs=4", "unknown key trian; the nearest known one is train"),
        ("train.epochs=0", "train.epochs: Input should be greater than 0, got 0"),
        ("train.batch_size=2.5", "train.batch_size: Input should be a valid integer.*got 2.5"),
        ("sampler.slots=100", "sampler.slots: Input should be a multiple of 32, got 100"),
        (
            "sampler.num_chains=1",
            "sampler.num_chains: Input should be greater than or equal to 2, got 1",
        ),
        (
            "sampler.max_sweeps=108",
            "max_sweeps must be at least num_start \\+ num_warmup \\+ 4 = 109, got 108",
        ),
        (
            "sampler.num_imputations=9999",
            "num_imputations: Input should be less than or equal to 4096, got 9999",
        ),
        (
            "sampler={max_sweeps: 205, num_imputations: 401}",
            "at most num_chains \\* \\(max.*\\) = 400, got 401",
        ),
        # 5 sweeps of 4 chains of 8 particles
        ("sampler={name: lair, max_sweeps: 110, num_imputations: 160}", None),
        (
            "sampler={name: lair, max_sweeps: 110, num_imputations: 161}",
            "at most num_chains \\* num_particles \\* \\(max.*\\) = 160, got 161",
        ),
        ("sampler.slots=32", None),
        (
            "sampler.num_particles=8",
            "^sampler.name latent_hmc does not take sampler.num_particles; "
            "it takes num_leapfrog_steps, num_scouts beside",
        ),
        (
            "sampler={name: lair, num_chains: 2, num_scouts: 3}",
            "^sampler.name lair does not take sampler.num_scouts; it takes num_particles, num_",
        ),
        (
            "sampler={name: pseudo_gibbs, prior_fraction: 0.1}",
            "^sampler.name pseudo_gibbs does not take sampler.prior_fraction; it takes none beside",
        ),
        (
            "sampler={name: lair, num_particle: 4}",
            "^unknown key sampler.num_particle; the nearest known one is sampler.num_particles$",
        ),
        ("sampler.name=lairr", "^sampler.name: Input should be 'latent_hmc', .* got 'lairr'$"),
        ("sampler.name=[lair]", "^sampler.name: Input should be 'latent_hmc', .* got .'lair'.$"),
        ("sampler=lair", "^sampler: Input should be a valid dictionary .* got 'lair'$"),
        ("sampler={name: lair, num_particles: 1}", "^sampler.num_particles: .* got 1$"),
        (
            "sampler={name: lair, num_replenishing: 8}",
            "num_replenishing must be at most num_particles - 1 = 7, got 8; there",
        ),
        (
            "sampler={name: annealed_smc, slots: 512}",
            None,
        ),
        (
            "sampler={name: annealed_smc, num_particles: 3}",
            "^sampler.num_particles: Input should be greater than or equal to 4, got 3",
        ),
        (
            "sampler={name: annealed_smc, num_start: 5}",
            "^sampler.num_start: Input should be 0, got 5$",
        ),
        (
            "sampler={name: lair, num_particles: 1024, num_chains: 5, slots: 5120}",
            "num_chains \\* num_particles must be at most 4096, got 5120",
        ),
        ("sampler.num_evidence_draws=4194300", None),  # 2^20 - 1 for each of 4 chains
        (
            "sampler.num_evidence_draws=4194301",
            "num_evidence_draws must be at most 1048575 for each of the 4 .*, 4194300, got 4194301",
        ),
        ("mask.mechanism=mcra", "mask.mechanism: Input should be 'mcar', .* got 'mcra'"),
        ("mask.mechanism=block", "mask.mechanism block needs mask.height"),
        (
            "mask={rate: 0.5, slope: 1}",
            "mask.mechanism mcar does not take mask.slope; it takes rate",
        ),
        ("mask.rate=1.5", "mask.rate: Input should be less than or equal to 1, got 1.5"),
        ("output.split=a b", "output.split: String should match pattern"),
        ("record.shape=[28, 28]", "record.shape.2: Field required"),
        ("train.epochs=.inf", "train.epochs: Input should be a finite number"),
        (
            "model.likelihood=poisson",
            "model.likelihood: Input should be 'bernoulli', .* got 'poisson'",
        ),
        (
            "record.binarize=none",
            "^model.likelihood bernoulli needs record.binarize threshold or sample, got none$",
        ),
        (
            "record.dtype=float32",
            "^model.likelihood bernoulli needs record.dtype uint8, got float32$",
        ),
        (
            "model.likelihood=discretized_logistic_mixture",
            "^model.likelihood discretized_logistic_mixture needs record.binarize "
            "none, got threshold$",
        ),
        (
            "model.likelihood=gaussian",
            "^model.likelihood gaussian needs record.dtype float32, got uint8$",
        ),
        ("seed=-1", "seed: Input should be greater than or equal to 0, got -1"),
        ("seed", "expected section.key=value"),
        ("seed.x=1", "seed: "),
        ("seed=[", "not YAML"),
    ],
)
def test_mistakes_are_one_clear_line(setting, message):
    if message is None:
        config.load(None, [setting])
        return
    with pytest.raises(ConfigError, match=message) as error:
        config.load(None, [setting])
    assert "\n" not in str(error.value)


def test_mistakes_are_found_before_tensorflow_starts():
    code = (
        "import sys\n"
        "from vaefill import config\n"
        "config.load('demo.yaml', ['sampler={name: lair, num_particles: 4}'])\n"
        "try:\n"
        "    config.load(None, ['sampler={name: lair, num_scouts: 4}'])\n"
        "except config.ConfigError:\n"
        "    sys.exit('tensorflow' in sys.modules)\n"
        "sys.exit('no error')\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_a_samplers_settings_survive_dumping_and_pickling(name):
    """Workers get them pickled; a manifest holds them, and tells runs apart by them."""
    loaded = config.load(None, [f"sampler={{name: {name}, slots: 1024, target_ess: 77.0}}"])
    assert type(loaded.sampler) is samplers.SAMPLERS[name].Config
    assert pickle.loads(pickle.dumps(loaded)) == loaded
    dumped = loaded.model_dump(mode="json")
    assert set(dumped["sampler"]) == set(type(loaded.sampler).model_fields)
    assert config.validate(dumped) == loaded


@pytest.mark.parametrize("mechanism", missingness.MECHANISMS)
def test_every_parameter_of_a_mechanism_is_a_setting_of_its_own_alone(mechanism):
    values = {"rate": 0.5, "slope": 4.0, "side": "left", "dark": 0.2, "bright": 0.8}
    takes = missingness.parameters_of(mechanism)
    mask = {"mechanism": mechanism} | {name: values.get(name, 3) for name in takes}
    assert config.validate({"mask": mask}).mask.parameters.keys() == takes.keys()
    for name in {"rate", "slope", "side", "first", "width"} - set(takes):
        with pytest.raises(ConfigError, match=f"{mechanism} does not take mask.{name}; it takes "):
            config.validate({"mask": mask | {name: values.get(name, 3)}})
    for name, parameter in takes.items():
        if parameter.is_required:
            with pytest.raises(ConfigError, match=f"mask.mechanism {mechanism} needs mask.{name}"):
                config.validate({"mask": {key: mask[key] for key in mask if key != name}})


@pytest.mark.parametrize(
    ("likelihood", "dtype"), [("discretized_logistic_mixture", "uint8"), ("gaussian", "float32")]
)
def test_grey_and_real_values_are_not_binarised(likelihood, dtype):
    settings = [f"model.likelihood={likelihood}", f"record.dtype={dtype}", "record.binarize=none"]
    assert config.load("test.yaml", settings).record.binarize == "none"


def test_a_model_of_masks_is_of_binary_values():
    real = ["model.likelihood=gaussian", "record.dtype=float32", "record.binarize=none"]
    with pytest.raises(ConfigError, match="^model: missingness self_masking needs likelihood bern"):
        config.load(None, [*real, "model.missingness=self_masking"])


def test_a_mechanism_that_goes_by_grey_values_needs_them():
    real = ["model.likelihood=gaussian", "record.dtype=float32", "record.binarize=none"]
    with pytest.raises(ConfigError, match="^mask.mechanism mar needs grey values"):
        config.load(None, [*real, "mask={mechanism: mar, rate: 0.5, slope: 4}"])


@pytest.mark.parametrize(
    ("content", "message"),
    [("- a\n- b\n", "expected sections of keys, got list"), ("a: [", "not YAML")],
)
def test_files_that_are_no_configuration(tmp_path, content, message):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        config.load(str(path))


def test_an_empty_file_is_the_defaults(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("")
    assert config.load(str(path)) == config.Config()


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match="nowhere.yaml"):
        config.load("nowhere.yaml")
