"""Reading and writing models: a file describes itself."""
