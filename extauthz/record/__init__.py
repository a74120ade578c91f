"""The record: what is written when an operator changes something, and its publication to Redis."""
