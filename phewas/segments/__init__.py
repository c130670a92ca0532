"""Readers, windows, quality, filtering and the segment store."""
