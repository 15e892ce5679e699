"""One file per way to choose what to try next."""
