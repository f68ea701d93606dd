"""Methods that know no trained prior."""
