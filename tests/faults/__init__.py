"""Every verb killed, and refused by the disk, at every write; then given again."""
