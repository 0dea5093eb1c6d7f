"""Where phrases with masks come from: one module a kind of source; see `analysis.regions.load_regions`."""
