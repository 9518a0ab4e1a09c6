"""What comes from outside is checked here before anything is done with it."""
