"""``ddimx evaluate``: one module for each kind of measurement."""
