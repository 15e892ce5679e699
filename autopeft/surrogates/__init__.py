"""Models of the score, shared by what proposes and what stops."""
