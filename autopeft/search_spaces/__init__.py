"""What can be searched: configurations, methods, placements, presets. No model is loaded here."""
