"""Reading and writing: the registry of datasets, file formats."""
