"""A network trained on pairs of data and images, with nothing of a prior: the usual way to reconstruct."""
