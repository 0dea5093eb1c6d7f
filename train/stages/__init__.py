"""The stages that come with the package, as YAML: `paper/ARM/STAGE` and `scenes/ARM/STAGE`."""
