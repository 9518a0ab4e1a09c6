"""Making pictures from pictures: inpainting, encoding, interpolation, and looking on."""
