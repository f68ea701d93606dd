"""Reconstructions of real fields: problems, methods, scores and the report."""
