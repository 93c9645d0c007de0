"""Images on disk become uint8 crops."""
