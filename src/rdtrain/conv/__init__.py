"""Spectral and plain convolutions, and exact conversion between them.

`matrices` are numpy, `transform` and `transforms` the forms in which a kernel can be stored, `layers` the convolutions,
`moments` what an optimizer remembers, `optimizers` what else is asked of it, `convert` the functions that change a
whole model, `state_dicts` those that write and read its tensors.
"""
