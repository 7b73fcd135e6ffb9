"""Models whose answers are known, and bounds for statistical tests.

Each model is a `VAE` for the code under test beside its mathematics in NumPy float64. A record is x
[D] and observed [D] (bool, True = observed); logarithms are natural.
"""

from tests.oracles.bernoulli import PlaneBernoulli, TinyBernoulli
from tests.oracles.bounds import (
    Scores,
    Uniformity,
    dkwm,
    dkwm_two_sample,
    hoeffding,
    jsd,
    ks_distance_between,
    ks_distance_to,
    rank_scores,
    sbc_uniform,
)
from tests.oracles.curve import CurveGaussian, CurveGrey
from tests.oracles.gaussian import FixedGaussian, Gaussian, LinearGaussian
from tests.oracles.modes import Mixture, Modes, draw_mixture

__all__ = [
    "CurveGaussian",
    "CurveGrey",
    "FixedGaussian",
    "Gaussian",
    "LinearGaussian",
    "Mixture",
    "Modes",
    "PlaneBernoulli",
    "Scores",
    "TinyBernoulli",
    "Uniformity",
    "dkwm",
    "dkwm_two_sample",
    "draw_mixture",
    "hoeffding",
    "jsd",
    "ks_distance_between",
    "ks_distance_to",
    "rank_scores",
    "sbc_uniform",
]
