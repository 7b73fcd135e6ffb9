"""The commands as a user runs them, and the output as a user without vaefill reads it."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

READER = """
import json, sys
import numpy as np
import tensorflow_datasets as tfds

imputed = tfds.builder_from_directory(sys.argv[1]).as_dataset(split="train")
masked = tfds.builder_from_directory(sys.argv[2]).as_dataset(split="train")
masked = {example["id"]: example for example in tfds.as_numpy(masked)}
facts = {"records": 0, "imputations": None, "labels_agree": True, "observed_agree": True}
facts |= {"values": set(), "extra": 0}
for example in tfds.as_numpy(imputed):
    source = masked[example["id"]]
    observed = example["observed"]
    facts["records"] += 1
    facts["imputations"] = list(example["imputations"].shape)
    facts["labels_agree"] &= bool(example["label"] == source["label"])
    facts["observed_agree"] &= bool((observed == source["observed"]).all())
    for imputation in example["imputations"]:
        facts["observed_agree"] &= bool((imputation[observed] == source["image"][observed]).all())
        facts["values"] |= set(np.unique(imputation[~observed]).tolist())
    facts["extra"] += len(example["extra"])
facts["values"] = sorted(facts["values"])
assert "vaefill" not in sys.modules
print("FACTS" + json.dumps(facts))
"""


def vaefill(*arguments: str, cwd) -> str:
    program = os.path.join(os.path.dirname(sys.executable), "vaefill")
    done = subprocess.run(
        [program, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


QUICK = (
    "train.epochs=1",
    "train.num_test_images=10",
    "sampler.num_start=2",
    "sampler.num_warmup=6",
    "sampler.max_sweeps=30",
    "sampler.num_evidence_draws=20",
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """`vaefill demo`, less of everything: where it ran, and what it printed."""
    directory = tmp_path_factory.mktemp("user")
    settings = [word for setting in QUICK for word in ("--set", setting)]
    return directory, vaefill("demo", "--output", "demo", *settings, cwd=directory)


def test_demo_does_all_of_it(demo):
    directory, printed = demo
    assert "300 masked records in demo/masked/mcar, 0 dead letters" in printed
    assert "300 of 300 records imputed in demo/imputed/top_three_quarters, 0 dead" in printed
    assert "Open demo/report/index.html in a browser." in printed
    page = (directory / "demo" / "report" / "index.html").read_text()
    assert page.count("data:image/png;base64,") >= 6
    assert sorted(os.listdir(directory / "demo" / "imputed")) == ["mcar", "top_three_quarters"]


def test_demo_with_a_model_that_comes_with_the_package(tmp_path):
    """It says what it says of digits that the model has not seen; nobody trains."""
    printed = vaefill("demo", "--pretrained", "--output", "demo", cwd=tmp_path)
    assert "60 of 60 records imputed in demo/imputed/mcar, 0 dead" in printed
    assert not (tmp_path / "demo" / "model").exists()
    summary = json.loads(
        (tmp_path / "demo" / "imputed" / "mcar" / "summary" / "summary.json").read_text()
    )
    assert summary["all"]["converged_fraction"] > 0.9


def test_the_output_is_read_with_tfds_alone(demo):
    result, masked = "demo/imputed/mcar/imputed", "demo/masked/mcar"
    command = [sys.executable, "-c", READER, result, masked]
    done = subprocess.run(
        command, cwd=demo[0], capture_output=True, text=True, timeout=120, check=True
    )
    facts = json.loads(done.stdout.split("FACTS")[1])
    assert facts == {
        "records": 300,
        "imputations": [8, 28, 28, 1],
        "labels_agree": True,
        "observed_agree": True,
        "values": [0, 255],
        "extra": 0,
    }


def test_the_counts_add_up(demo):
    path = demo[0] / "demo" / "imputed" / "mcar" / "summary" / "summary.json"
    summary = json.loads(path.read_text())
    counts = summary["counts"]
    assert counts["read"] == counts["written"] + counts["dead"] == 300
    assert sum(group["num_records"] for group in summary["by_label"].values()) == 300


def test_evaluate_prints_the_scores(demo):
    printed = demo[1]
    assert "nll" in printed and "label 7" in printed and "reliability" in printed
    for expected in ("300 records, ", " misfits", "sweeps of a chain", "log p(x_mis | x_obs)"):
        assert expected in printed
