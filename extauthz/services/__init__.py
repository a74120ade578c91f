"""Envoy's language, bytes to bytes: protobuf stops here."""
