"""Whole jobs, from a file to a result: what the command line runs and the benchmarks measure."""
