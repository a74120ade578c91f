"""Limits as rules, and each algorithm beside its Lua."""
