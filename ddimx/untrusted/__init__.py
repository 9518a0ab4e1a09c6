"""Reading files from outside: what they declare is held against bounds before it is believed."""
