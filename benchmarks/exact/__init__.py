"""Every sampler against posteriors that are known: ``python -m benchmarks run exact``."""
