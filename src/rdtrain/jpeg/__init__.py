"""Networks that classify images from their JPEG coefficients, without decoding them."""
