"""A prior of pressure fields from measurements alone, beside priors that saw clean fields."""
