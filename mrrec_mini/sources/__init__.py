"""Importers of real data sets, one file per source. Each importer returns a `Dataset`."""
