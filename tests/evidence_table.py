"""How log p(x_obs) and log p(x_mis | x_obs) move with the number of draws: prints the table of
docs/method.md.

`python -m tests.evidence_table --model DIR [--data tfds:mnist --split test --num-records 100]`.
Chains run once for each mask; the proposals are the same for every number of draws, and fewer draws
are the first of more.
"""

import argparse

import numpy as np

from vaefill.model import checkpoints, datasets, missingness, samplers
from vaefill.model.compiled import compile_vae
from vaefill.model.engine.collection import CollectedDraws, DrawCollector
from vaefill.model.engine.slots import Finished, Records, Slots
from vaefill.model.preprocessing import Preprocessor
from vaefill.model.vae import VAE
from vaefill.report.text import markdown_table, number, percent

NUM_DRAWS = (100, 300, 1_000, 3_000, 10_000)
MASKS = {
    "mcar_50": ("mcar", {"rate": 0.5}),
    "top_three_quarters": ("top_three_quarters", {}),
}


def masked(vae: VAE, images: np.ndarray, mask: str) -> tuple[Records, np.ndarray]:
    """Records of images [N, H, W, C] under a mask, and the complete ones [N, D] on the model's
    scale.
    """
    name, parameters = MASKS[mask]
    ids = [b"evidence/%05d" % index for index in range(len(images))]
    generators = (missingness.record_generator(0, record_id) for record_id in ids)
    observed = np.stack(
        [
            missingness.generate(name, image, each, parameters)
            for image, each in zip(images.reshape(-1, *vae.data_shape), generators)
        ]
    ).reshape(len(images), -1)
    see = Preprocessor(vae.likelihood)
    truth = see.to_model(see.keys(ids), images)
    keys = see.keys(ids)
    return Records(keys, np.where(observed, truth, 0).astype(np.float32), observed), truth


def collect(
    collector: DrawCollector,
    records: Records,
    finished: list[Finished],
    truth: np.ndarray,
    size: int,
) -> CollectedDraws:
    """Of all records, `size` at a time."""
    parts = []
    for first in range(0, len(finished), size):
        part = slice(first, first + size)
        parts.append(
            collector(Records(*(field[part] for field in records)), finished[part], truth[part])
        )
    return CollectedDraws(*(np.concatenate(field) for field in zip(*parts)))


def mean_and_error(values: np.ndarray) -> str:
    return f"{number(values.mean(), '.3f')} ± {values.std(ddof=1) / np.sqrt(len(values)):.3f}"


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", default="tfds:mnist")
    parser.add_argument("--split", default="test")
    parser.add_argument("--num-records", type=int, default=100)
    arguments = parser.parse_args()
    config, model = samplers.sampler_config(), checkpoints.load(arguments.model)
    vae = compile_vae(model.vae, config.precision)
    images = datasets.load_images(arguments.data, arguments.split, vae.data_shape)[
        : arguments.num_records
    ]
    slots = Slots(vae, samplers.build(vae, config), config)
    harvesters = {
        num: DrawCollector(vae, config.model_copy(update={"num_evidence_draws": num}))
        for num in NUM_DRAWS
    }
    titles = (
        "missing",
        "draws",
        "log p(x_obs)",
        "its error",
        "log p(x_mis \\| x_obs)",
        "its error",
        "k above 0.7",
    )
    print("\n".join(markdown_table(titles, [])), flush=True)
    for mask in MASKS:
        records, truth = masked(vae, images, mask)
        finished = sorted(
            (each for call in slots.run(records) for each in call), key=lambda each: each.index
        )
        for num_draws, collector in harvesters.items():
            found = collect(collector, records, finished, truth, slots.num_places)
            cells = (
                mean_and_error(found.log_prob_observed),
                f"{found.log_prob_observed_error.mean():.3f}",
                mean_and_error(found.log_prob_missing),
                f"{found.log_prob_missing_error.mean():.3f}",
                percent((found.pareto_k > 0.7).mean()),
            )
            print(markdown_table((mask, f"{num_draws:,}", *cells), [])[0], flush=True)


if __name__ == "__main__":
    main()
