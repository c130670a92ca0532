"""Phecode tables as Parquet, with SOURCES.md naming where each comes from."""
