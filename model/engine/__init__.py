"""What runs samplers: chains in slots of a device batch, until a stopping rule says that they have
converged.
"""
