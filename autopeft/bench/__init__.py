"""What the project knows of optimisers: recorded tables, simulations on them, comparisons."""
