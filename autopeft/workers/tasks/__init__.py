"""One file per task: what a job trains for."""
