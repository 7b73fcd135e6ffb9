"""Fill in missing data with a variational autoencoder, at scale: samples, statistics, diagnostics.

    import vaefill

    model = vaefill.load_model("runs/model")
    observed = vaefill.mask(images, "mcar", rate=0.5)
    result = vaefill.impute(model, images, observed)
    result.imputations, result.mean, result.converged

Each name is imported when it is first used: TensorFlow takes seconds.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vaefill.api import Result, impute, load_model, mask, read_result, train, verify
    from vaefill.model.checkpoints import LoadedModel
    from vaefill.model.config import SamplerConfig
    from vaefill.model.ensembles import LoadedEnsemble
    from vaefill.model.errors import ExpectedError
    from vaefill.model.imputer import Imputed
    from vaefill.model.samplers import sampler_config
    from vaefill.pooling import Pooled, pool

_HOMES = {
    "ExpectedError": "vaefill.model.errors",
    "Imputed": "vaefill.model.imputer",
    "LoadedEnsemble": "vaefill.model.ensembles",
    "LoadedModel": "vaefill.model.checkpoints",
    "Pooled": "vaefill.pooling",
    "Result": "vaefill.api",
    "SamplerConfig": "vaefill.model.config",
    "impute": "vaefill.api",
    "load_model": "vaefill.api",
    "mask": "vaefill.api",
    "pool": "vaefill.pooling",
    "read_result": "vaefill.api",
    "sampler_config": "vaefill.model.samplers",
    "train": "vaefill.api",
    "verify": "vaefill.api",
}

__all__ = [
    "ExpectedError",
    "Imputed",
    "LoadedEnsemble",
    "LoadedModel",
    "Pooled",
    "Result",
    "SamplerConfig",
    "impute",
    "load_model",
    "mask",
    "pool",
    "read_result",
    "sampler_config",
    "train",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vaefill' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
