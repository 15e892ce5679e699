"""One file per way to run segments."""
