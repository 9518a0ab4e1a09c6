"""FID, the Fréchet inception distance."""
