"""The job and the driver loop that ties the rooms together."""
