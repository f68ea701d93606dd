"""Sea-level pressure from stations: GaussianBridge beside climatology, optimal interpolation and the ETKF."""
