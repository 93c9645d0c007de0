"""Entropy coding of latents: CompressAI's own strings made and read faster, and context models in another order."""
