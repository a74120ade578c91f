"""Tenants and their API keys as documents, and the cache of them."""
