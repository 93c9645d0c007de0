"""A small network that doubles the size of images, to see what a form of its kernels does outside of compression."""
