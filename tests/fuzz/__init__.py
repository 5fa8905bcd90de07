"""Fuzz targets, one per parser; each states its invariant first. A second each by default, LADYBUG_FUZZ_SECONDS for more."""
