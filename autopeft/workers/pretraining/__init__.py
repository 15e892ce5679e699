"""Base models that are pretrained here, by a committed recipe, and kept in the user's cache."""
