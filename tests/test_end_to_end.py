"""The commands as a user runs them, and the output as a user without vaefill reads it."""

import json
import os
import subprocess
import sys

import pytest

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
assert "model" not in sys.modules and "pipeline" not in sys.modules
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


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    directory = tmp_path_factory.mktemp("user")
    vaefill("train", "--config", "test.yaml", "--model", "model", cwd=directory)
    mask = ("mask", "--config", "test.yaml", "--input", "digits/test[:60]", "--output", "masked")
    vaefill(*mask, "--mechanism", "mcar", "--rate", "0.5", cwd=directory)
    impute = (
        "impute",
        "--config",
        "test.yaml",
        "--model",
        "model",
        "--input",
        "masked/*.tfrecord-*",
    )
    printed = vaefill(*impute, "--output", "imputed", cwd=directory)
    assert "60 of 60 records imputed in imputed, 0 dead letters" in printed
    return directory


def test_the_output_is_read_with_tfds_alone(workspace):
    arguments = [sys.executable, "-c", READER, "imputed/imputed", "masked"]
    done = subprocess.run(
        arguments, cwd=workspace, capture_output=True, text=True, timeout=120, check=True
    )
    facts = json.loads(done.stdout.split("FACTS")[1])
    assert facts == {
        "records": 60,
        "imputations": [3, 28, 28, 1],
        "labels_agree": True,
        "observed_agree": True,
        "values": [0, 255],
        "extra": 0,
    }


def test_the_counts_add_up(workspace):
    summary = json.loads((workspace / "imputed" / "summary" / "summary.json").read_text())
    counts = summary["counts"]
    assert counts["read"] == counts["written"] + counts["dead"] == 60
    assert sum(group["num_records"] for group in summary["by_label"].values()) == 60


def test_evaluate_prints_the_scores(workspace):
    printed = vaefill("evaluate", "imputed", cwd=workspace)
    assert "nll" in printed and "label 7" in printed and "reliability" in printed
    for expected in ("60 records, ", " misfits", "sweeps of a chain", "log p(x_mis | x_obs)"):
        assert expected in printed


def test_report_makes_a_page(workspace):
    printed = vaefill("report", "imputed", cwd=workspace)
    assert os.path.join("imputed", "report", "index.html") in printed
    page = (workspace / "imputed" / "report" / "index.html").read_text()
    assert page.count("data:image/png;base64,") >= 3


def test_demo_does_all_of_it(tmp_path):
    quick = (
        "train.epochs=1",
        "train.num_test_images=10",
        "sampler.num_start=2",
        "sampler.num_warmup=6",
        "sampler.max_sweeps=30",
        "sampler.num_evidence_draws=20",
    )
    printed = vaefill(
        "demo",
        "--output",
        "demo",
        *(word for pair in quick for word in ("--set", pair)),
        cwd=tmp_path,
    )
    assert "Open demo/report/index.html in a browser." in printed
    assert (tmp_path / "demo" / "report" / "index.html").stat().st_size > 50_000
    assert sorted(os.listdir(tmp_path / "demo" / "imputed")) == ["mcar", "top_three_quarters"]
