"""What a job trains for, one file a task: labels, metrics and which way each of them is better."""
