"""Flags and environment, read once into frozen values. The only reader of the environment."""
