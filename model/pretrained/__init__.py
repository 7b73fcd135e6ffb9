"""Models that come with the package: directories beside this file, each with a card, `README.md`.

Wherever a model directory is asked for, `pretrained:NAME` will do. None has seen MNIST's test split
or the bundled digits.
"""

import pathlib

from vaefill.model.errors import ModelError

_PREFIX = "pretrained:"
_HERE = pathlib.Path(__file__).parent


def names() -> list[str]:
    """The models that there are."""
    return sorted(path.parent.name for path in _HERE.glob("*/vae.json"))


def resolve(model: str) -> str:
    """The directory of a model.

    Args:
        model: `pretrained:NAME`, or a directory, which is returned as it is.

    Raises:
        ModelError: no model of that name comes with the package.
    """
    if not model.startswith(_PREFIX):
        return model
    name = model.removeprefix(_PREFIX)
    if name not in names():
        raise ModelError(f"no pretrained model {name!r}; there are {', '.join(names())}")
    return str(_HERE / name)
