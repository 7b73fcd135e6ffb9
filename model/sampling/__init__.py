"""Samplers of p(x_mis | x_obs): one sampler, one file; the chain driver knows none of them by name."""

from model.sampling import pseudo_gibbs

SAMPLERS = {"pseudo_gibbs": pseudo_gibbs.build}
