"""A run that can be interrupted: its folder, its lock, its record, and what is left to do."""

from .folder import ROOT, fresh_run, last_run
from .lock import lock_file, lock_folder

__all__ = ["ROOT", "fresh_run", "last_run", "lock_file", "lock_folder"]
