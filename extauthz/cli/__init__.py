"""The doors: what a person or a supervisor types."""
