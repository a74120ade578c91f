"""Bytes: gRPC over HTTP/2, twice, behind one seam. Only the doors import it."""
