"""One file per training tool that can take a winner."""
