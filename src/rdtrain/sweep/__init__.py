"""A multirun as one object: its plan, the state of its points, and what is made of them at the end."""
