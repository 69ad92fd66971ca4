"""One file a stage; pipeline/registry.py has them in the order of the data."""
