"""How fast chains and training run, beside the matrix products that they consist of.

The limit is measured, not looked up: NumPy's float32 products of the same shapes, and TensorFlow's
in bfloat16, in turn with the programs themselves, since machines are shared and their speed drifts.
A figure is the median of its rounds, a ratio the median of the rounds' ratios. All have all cores:
NumPy in a process of its own, since it is slower beside the threads of TensorFlow; the others in
lanes, as a job runs them.
"""

import concurrent.futures
import functools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from vaefill.experiments.products import Shape, network_shapes, numpy_alone
from vaefill.model import samplers, training
from vaefill.model import vae as vae_lib
from vaefill.model.compiled import compile_vae
from vaefill.model.config import (
    DataConfig,
    ModelConfig,
    RecordConfig,
    SamplerConfig,
    Settings,
    TrainConfig,
)
from vaefill.model.engine import chain
from vaefill.model.engine.stopping import BLOCK
from vaefill.model.gaps import Split
from vaefill.model.goals import Evidence
from vaefill.model.parallel import available
from vaefill.model.samplers import latent_hmc
from vaefill.model.samplers.base import rows_of_records
from vaefill.model.trainer import Trainer
from vaefill.model.vae import VAE

_SHAPE = (28, 28, 1)
_NUM_VALUES = 784
_OBSERVED = 0.5


class Rate(NamedTuple):
    """How often something is done."""

    name: str
    precision: str
    per_second: float
    of_limit: float  # its ratio to NumPy's float32 products of the same shapes


def tensorflow_products(shapes: Sequence[Shape], rows: int) -> Callable[[], Any]:
    """As `numpy_products`, of bfloat16 factors."""
    pairs = [
        (tf.ones([rows, first], tf.bfloat16), tf.ones([first, second], tf.bfloat16))
        for first, second in shapes
    ]
    run = tf.function(lambda pairs: [tf.matmul(left, right) for left, right in pairs])
    return lambda: [product[0, 0].numpy() for product in run(pairs)]  # waits for the device


def in_lanes(programs: Sequence[Callable[[], Any]]) -> Callable[[], list[Any]]:
    """Programs side by side, each in a thread of its own: a program that ends when all have."""
    pool = concurrent.futures.ThreadPoolExecutor(len(programs))
    return lambda: list(pool.map(lambda program: program(), programs))


def in_turn(programs: Mapping[str, Callable[[], Any]], num_rounds: int) -> dict[str, np.ndarray]:
    """Seconds [num_rounds] of each program, all of them once a round, after a run of each that does
    not count.
    """
    seconds = {name: np.empty(num_rounds) for name in programs}
    for index in range(-1, num_rounds):
        for name, program in programs.items():
            began = time.perf_counter()
            program()
            if index >= 0:
                seconds[name][index] = time.perf_counter() - began
    return seconds


def sweeps_of(
    vae: VAE, config: SamplerConfig, num_lanes: int = 1
) -> Callable[[], list[np.ndarray]]:
    """A block of `BLOCK` kept sweeps of a sampler in all slots of every lane, as a job runs it."""
    vae = compile_vae(vae, config.precision)
    kernel = samplers.build(vae, config)
    schedule = chain.Schedule.of(config)
    rng = np.random.default_rng(0)
    per_record = config.rows_per_record
    num_records = config.slots // per_record
    rows = rows_of_records(
        tf.constant(rng.integers(0, 1 << 32, (num_records, 2), np.uint32)),
        tf.constant((rng.random((num_records, vae.num_values)) < 0.2).astype(np.float32)),
        tf.constant(rng.random((num_records, vae.num_values)) < _OBSERVED),
        per_record,
    )
    begin = tf.function(lambda: chain.begin(vae, kernel, rows, schedule), autograph=False)
    advance = tf.function(
        lambda chains: chain.advance(
            vae, kernel, chains, tf.zeros([config.slots], tf.int32), schedule, BLOCK
        ),
        jit_compile=chain.as_one_program(),
        autograph=False,
    )
    starts = [begin() for _ in range(num_lanes)]

    def sweep(chains: chain.Chains) -> np.ndarray:
        return advance(chains)[1].log_likelihood.numpy()

    return in_lanes([functools.partial(sweep, chains) for chains in starts])


def gibbs_rates(num_rounds: int = 7, slots: int = 1024) -> list[Rate]:
    """Chain-sweeps a second (of LAIR a particle's) of a model with 50 latents: a pass through both
    networks each.
    """
    config = ModelConfig(latent_size=50)
    shapes = network_shapes(_NUM_VALUES, config.hidden, 2 * config.latent_size) + _decoder_shapes(
        config
    )
    names = ("pseudo_gibbs", "metropolis_within_gibbs", "lair")
    return _chain_rates(config, shapes, "sweeps", names, BLOCK, num_rounds, slots)


def gradient_rates(num_rounds: int = 7, slots: int = 1024) -> list[Rate]:
    """Gradients a second of `latent_hmc` and a model with 32 latents: forward and backward through
    the decoder.
    """
    config = ModelConfig()
    forward = _decoder_shapes(config)
    shapes = forward + [(outputs, inputs) for inputs, outputs in forward]
    passes = BLOCK * latent_hmc.Config().num_leapfrog_steps
    return _chain_rates(config, shapes, "gradients", ("latent_hmc",), passes, num_rounds, slots)


def _decoder_shapes(config: ModelConfig) -> list[Shape]:
    return network_shapes(config.latent_size, config.hidden[::-1], _NUM_VALUES)


def _repeat(program: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        program()


def _chain_rates(
    config: ModelConfig,
    shapes: Sequence[Shape],
    unit: str,
    names: Sequence[str],
    passes: int,
    num_rounds: int,
    slots: int,
) -> list[Rate]:
    """The limits, and samplers, all programs of `passes` passes of matrices of `shapes`, in all
    lanes.
    """
    model, lanes = vae_lib.build(config, _SHAPE), available()
    rounded = [tensorflow_products(shapes, slots) for _ in range(lanes)]
    keys = {
        "limit": (f"products of {unit}, NumPy", "float32"),
        "rounded": (f"products of {unit}, TensorFlow", "bfloat16"),
    }
    with numpy_alone(shapes, slots) as limit:
        # As long as a block of sweeps, so that what runs next is disturbed no more by one program
        # than by another.
        programs: dict[str, Callable[[], Any]] = {
            "limit": lambda: limit(lanes * passes),
            "rounded": in_lanes([functools.partial(_repeat, run, passes) for run in rounded]),
        }
        for name in names:
            for precision in ("float32", "bfloat16"):
                sampler = samplers.sampler_config(
                    name,
                    precision=precision,
                    num_start=1,
                    num_warmup=6,
                    slots=slots,
                )
                key = f"{name} {precision}"
                programs[key], keys[key] = (
                    sweeps_of(model, sampler, lanes),
                    (f"{unit} of {name}", precision),
                )
        seconds = in_turn(programs, num_rounds)
    num = lanes * passes * slots
    return [
        Rate(*keys[key], num / float(np.median(each)), float(np.median(seconds["limit"] / each)))
        for key, each in seconds.items()
    ]


def training_rate(num_rounds: int = 3, batch_size: int = 256, num_steps: int = 200) -> list[Rate]:
    """Images a second in training the model of `mnist.yaml`, beside the products of its forward and
    backward pass.
    """
    config = ModelConfig()
    forward = network_shapes(_NUM_VALUES, config.hidden, 2 * config.latent_size) + _decoder_shapes(
        config
    )
    images = np.random.default_rng(0).integers(
        0, 256, (batch_size * num_steps, _NUM_VALUES), dtype=np.uint8
    )
    seconds: dict[str, list[float]] = {"limit": [], "training": []}
    with numpy_alone(forward, batch_size) as limit:
        for _ in range(num_rounds):
            times = in_turn({"limit": lambda: limit(num_steps)}, 1)["limit"] / num_steps
            # Backward is two products for each forward
            seconds["limit"].append(3 * float(times[0]) / batch_size)
            # Both compile, so that their difference is steps alone.
            lengths = [_training_seconds(images, batch_size, epochs) for epochs in (1, 3)]
            seconds["training"].append((lengths[1] - lengths[0]) / (2 * num_steps * batch_size))
    ratio = float(np.median(np.divide(seconds["limit"], seconds["training"])))
    return [
        Rate(
            "images, products, NumPy float32",
            "float32",
            1 / float(np.median(seconds["limit"])),
            1.0,
        ),
        Rate("images in training", "float32", 1 / float(np.median(seconds["training"])), ratio),
    ]


def _training_seconds(images: np.ndarray, batch_size: int, epochs: int) -> float:
    settings = Settings(
        DataConfig(),
        RecordConfig(),
        ModelConfig(),
        TrainConfig(epochs=epochs, evaluate_every=epochs, batch_size=batch_size),
        seed=0,
    )
    with tempfile.TemporaryDirectory() as directory:
        data = Split(images)
        goal = Evidence(training.untrained(settings, data), settings.train.num_importance_samples)
        trainer = Trainer(goal, settings, data, directory)
        began = time.perf_counter()
        trainer.run(data[:1000], show_progress=False)
        return time.perf_counter() - began
