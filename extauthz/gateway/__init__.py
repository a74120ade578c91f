"""The operator's file: its values, its loading with every problem at once, its reloading."""
