"""Whether independent runs agree on what digits might be: `python -m tests.class_shares --model DIR
--data tfds:mnist`.

Digits with the top three quarters missing are imputed in runs that differ in their random numbers
alone, and a small classifier says of every imputation which digit it is. Of a record whose runs all
draw from the same distribution the shares of a class vary from run to run as those of independent
draws do, or less; a run that has missed a mode differs.
"""

import argparse

import keras
import numpy as np
import scipy.stats
import tqdm

from vaefill.model import checkpoints, datasets, missingness, samplers
from vaefill.model.imputer import Imputer

NUM_IMPUTATIONS = 64
_FALSE_ALARM = 1e-3  # of each record


def labelled(name: str, split: str, num: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, H, W, C] and labels [N] of a data set."""
    records = datasets.builder(name).as_dataset(split=split, shuffle_files=False).take(num or -1)
    images, labels = zip(*((record["image"].numpy(), int(record["label"])) for record in records))
    return np.stack(images), np.array(labels)


def classifier(images: np.ndarray, labels: np.ndarray) -> keras.Model:
    """A network of one hidden layer, trained on thresholded images for three epochs."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Flatten(),
        keras.layers.Dense(256, activation="relu"),
        keras.layers.Dense(10),
    ]
    network = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile("adam", loss, metrics=["accuracy"])
    network.fit(np.float32(images > 127), labels, batch_size=128, epochs=3, verbose=0)
    return network


def run_shares(
    model: checkpoints.LoadedModel, network: keras.Model, images: np.ndarray, num_runs: int
):
    """Shares of the classes [runs, N, 10], and which records converged [runs, N]."""
    imputer = Imputer(
        model.vae,
        samplers.sampler_config(num_imputations=NUM_IMPUTATIONS, num_evidence_draws=0),
    )
    generator = missingness.record_generator(0, b"any")
    observed = np.stack(
        [missingness.generate("top_three_quarters", image, generator, {}) for image in images]
    )
    num = len(images)
    ids = [b"%d in run %d" % (index, run) for run in range(num_runs) for index in range(num)]
    with tqdm.tqdm(total=len(ids), unit="record") as bar:
        found = imputer(
            np.tile(images, (num_runs, 1, 1, 1)),
            np.tile(observed, (num_runs, 1, 1, 1)),
            ids,
            report=lambda converged: bar.update(len(converged)),
        )
    drawn = found.imputations.reshape(-1, *images.shape[1:])
    classes = network.predict(np.float32(drawn > 127), batch_size=1024, verbose=0).argmax(axis=1)
    shares = np.eye(10)[classes].reshape(num_runs, num, NUM_IMPUTATIONS, 10).mean(axis=2)
    return shares, found.converged.reshape(num_runs, num)


def disagreement(shares: np.ndarray) -> tuple[float, int]:
    """Of the runs [R, 10] of one record: chi-square of homogeneity, its degrees of freedom.

    Classes that are expected less than once in a run count as one.
    """
    counts = NUM_IMPUTATIONS * shares
    rare = counts.mean(axis=0) < 1
    counts = np.column_stack([counts[:, ~rare], counts[:, rare].sum(axis=1)])
    expected = counts.mean(axis=0)
    used = expected > 0.5
    statistic = (np.square(counts - expected)[:, used] / expected[used]).sum()
    return float(statistic), max((len(counts) - 1) * (int(used.sum()) - 1), 0)


def main() -> None:
    """Prints how many records' runs agree, and by how much shares vary more than those of
    independent draws.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", default="tfds:mnist")
    parser.add_argument("--num-records", type=int, default=200)
    parser.add_argument("--num-runs", type=int, default=20)
    arguments = parser.parse_args()
    model = checkpoints.load(arguments.model)
    network = classifier(*labelled(arguments.data, "train"))
    test, labels = labelled(arguments.data, "test")
    _, accuracy = network.evaluate(np.float32(test > 127), labels, verbose=0)
    print(f"classifier: {accuracy:.1%} of the complete test images")
    shares, converged = run_shares(
        model, network, test[: arguments.num_records], arguments.num_runs
    )
    print(f"{converged.mean():.1%} of the runs converged")
    for name, chosen in (("all runs", np.ones_like(converged)), ("runs that converged", converged)):
        found = [
            disagreement(shares[chosen[:, i], i])
            for i in range(shares.shape[1])
            if chosen[:, i].sum() > 1
        ]
        found = np.array([each for each in found if each[1] > 0])
        limits = scipy.stats.chi2.ppf(1 - _FALSE_ALARM, found[:, 1])
        print(
            f"{name}: {len(found)} records of more than one class; "
            "chi-square over its degrees of freedom "
            f"{found[:, 0].sum() / found[:, 1].sum():.2f} (independent draws: 1); "
            f"{np.mean(found[:, 0] > limits):.1%} of the records "
            f"beyond the limit of {_FALSE_ALARM:.1%}"
        )


if __name__ == "__main__":
    main()
