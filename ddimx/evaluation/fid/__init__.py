"""FID, KID, precision and recall of images."""
