"""The Envoy configuration: rendered from the gateway file, and checked wherever it came from."""
