"""Spectral and plain convolutions, and exact conversion between them.

`matrices` are numpy, `transform` and `transforms` the forms in which a kernel can be stored, `layers` the convolutions,
`moments` what happens to the optimizer, `convert` the functions that change a whole model or a state dict.
"""
