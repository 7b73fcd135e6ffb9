"""Summary statistics of a data set."""
