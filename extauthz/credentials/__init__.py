"""Secrets under envelope encryption, and the credentials opened from them."""
