"""What CompressAI's entropy models do to a rate: measured, explained, and changed where a configuration asks for it."""
