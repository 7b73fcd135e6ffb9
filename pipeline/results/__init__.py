"""The result directory: what it says of itself, and how it is published whole or not at all."""
