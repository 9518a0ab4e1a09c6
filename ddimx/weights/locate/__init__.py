"""Where weights are: published names, the download cache, the Hugging Face hub."""
