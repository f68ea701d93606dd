"""What every benchmark shares: rows on disk, resumable runs, statistics of comparisons, tables for the pages."""
