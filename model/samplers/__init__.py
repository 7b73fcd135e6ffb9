"""Samplers of p(x_mis | x_obs): one sampler, one file; the chain driver knows none of them by name."""

from vaefill.model.samplers import (
    ac_mwg,
    annealed_smc,
    importance_resampling,
    lair,
    latent_hmc,
    metropolis_within_gibbs,
    pseudo_gibbs,
)

SAMPLERS = {
    "latent_hmc": latent_hmc.build,
    "pseudo_gibbs": pseudo_gibbs.build,
    "metropolis_within_gibbs": metropolis_within_gibbs.build,
    "ac_mwg": ac_mwg.build,
    "lair": lair.build,
    "importance_resampling": importance_resampling.build,
    "annealed_smc": annealed_smc.build,
}
