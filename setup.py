"""Packaging of vaefill. The versions that were tested together are in tests/constraints.txt."""

import pathlib

from setuptools import find_packages, setup

# An installed distribution takes one name: pipeline/ is `vaefill`, the other two lie in it.
DIRECTORIES = {"vaefill": "pipeline", "vaefill.model": "model", "vaefill.configs": "configs"}

setup(
    name="vaefill",
    version="0.1.0",
    description="Fill in missing data with a variational autoencoder, at scale: samples, "
    "statistics, diagnostics",
    long_description=pathlib.Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    package_dir=DIRECTORIES,
    packages=[
        *DIRECTORIES,
        *(f"{name}.{part}" for name, where in DIRECTORIES.items() for part in find_packages(where)),
    ],
    package_data={
        "vaefill.model.digits": ["*.json", "*.tfrecord-*", "README.md", "LICENSE"],
        "vaefill.report": ["templates/*.html"],
        "vaefill.model.pretrained": ["*/*.json", "*/*.safetensors", "*/README.md"],
        "vaefill.configs": ["*.yaml"],
    },
    install_requires=[
        "apache-beam>=2.65,<3",
        "click>=8.1,<9",
        "fsspec>=2024.2",
        "google-crc32c>=1.5,<2",
        "importlib_resources>=6",  # tensorflow-datasets needs it and does not ask for it
        "jinja2>=3.1,<4",
        "keras>=3.8,<4",
        "matplotlib>=3.9,<4",
        "numpy>=2.0,<3",
        "pandas>=2.2,<4",
        "pillow>=10",
        "prometheus-client>=0.20,<1",
        "psutil>=5.9",
        "pyarrow>=16",
        "pydantic>=2.8,<3",
        "python-json-logger>=3.1,<5",
        "pyyaml>=6",
        "safetensors>=0.4.5,<1",
        "scipy>=1.10",
        "tensorboard>=2.20,<3",  # tensorflow writes no summaries without it
        "tensorflow>=2.20,<2.22",
        "tensorflow-datasets>=4.9.8,<5",
        "tensorflow-probability>=0.25,<0.26",
        "tf-keras>=2.20,<2.22",  # tensorflow-probability imports it
        "tqdm>=4.66",
    ],
    extras_require={
        "gcp": ["apache-beam[gcp]>=2.65,<3", "gcsfs>=2024.2"],  # Dataflow; files of gs://
        "aws": ["s3fs>=2024.2"],  # files of s3://
        "arrayrecord": ["array_record>=0.5"],  # data sets of ArrayRecord files; on Linux tfds's own
        "peers": ["scikit-learn>=1.5"],  # vaefill compare-peers
        "gpu": ["tensorflow[and-cuda]>=2.20,<2.22"],
        "fuzz": ["atheris>=3"],
        "test": [
            "arviz-stats>=0.8,<0.9",
            "datasets>=4",  # like duckdb and polars, what people open records.parquet with
            "duckdb>=1.1",
            "hypothesis>=6.100",
            "mypy>=2.4,<3",
            "pandas-stubs>=2.2,<4",
            "polars>=1.20",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.6",
            "scikit-learn>=1.5",
            "types-PyYAML>=6,<7",
            "types-protobuf>=6",
        ],
    },
    entry_points={"console_scripts": ["vaefill=vaefill.cli:main"]},
)
