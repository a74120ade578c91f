"""Which provider is down, as all sidecars know it."""
