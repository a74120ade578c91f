"""The multiplexed Redis client of the data plane."""
