"""The encoder's scale on the VAE's terms."""

import numpy as np


def raw_scale(scale: np.ndarray) -> np.ndarray:
    """What an encoder puts out for the VAE to make this scale of it: softplus(raw) + 1e-4."""
    return np.log(np.expm1(np.asarray(scale) - 1e-4))
