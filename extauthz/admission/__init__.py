"""One round trip: compare the epochs, check every limit, count all or nothing."""
