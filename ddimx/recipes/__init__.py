"""How the data of the shipped models are made."""
