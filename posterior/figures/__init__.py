"""Pictures of draws: style, fields on their axes, the reconstruction panel, and what a notebook shows."""
