"""External authorization and rate limits for Envoy, one gRPC sidecar, one Redis round trip.

Start reading at `cli/wiring.py`; the README draws the way of a request.
"""

__version__ = "0.1.0"
