"""Quickstart, benchmark, grids and the builders of the embedded models; beside them job files and set-up."""
