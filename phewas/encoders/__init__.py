"""The encoder registry and one file per architecture family."""
