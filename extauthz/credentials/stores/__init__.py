"""The places where secrets are kept, one file each."""
