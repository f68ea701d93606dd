"""Problems whose truth is known, on which samplers are judged: what `posterior calibrate` runs."""
