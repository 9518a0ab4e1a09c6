"""The version, here alone: pyproject.toml reads it without importing the package."""

__version__ = "0.2.0"
