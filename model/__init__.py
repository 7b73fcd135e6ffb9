"""Probability and TensorFlow: the VAE, its training, and the samplers that fill in missing
values.
"""
