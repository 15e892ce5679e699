"""Searches that others drive: proposer and stopper as guests of Ray Tune, Optuna or any loop."""
