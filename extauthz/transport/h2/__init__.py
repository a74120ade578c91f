"""HTTP/2 as a server for gRPC, without I/O and without a clock: bytes and the time go in, bytes and calls come out.

Read `connection.py` first: the one loop over frames. `limits.py` has every bound with its arithmetic.
"""
