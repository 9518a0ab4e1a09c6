"""Image data sets, and the packed file that holds one ready to train on."""
