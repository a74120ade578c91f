"""The whole system on one machine, from wheels: what `make run` starts, and what the tests start it with."""
