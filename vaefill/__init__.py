"""Fill in missing data with a variational autoencoder, at scale: samples, statistics, diagnostics."""
