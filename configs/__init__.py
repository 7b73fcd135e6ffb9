"""YAML configurations, values only; a package so that they are installed with the program."""
