"""One Catalyst runner a file. Import them as `rdtrain.runners`."""

from rdtrain.runners.image_compression import ImageCompressionRunner

__all__ = ["ImageCompressionRunner"]
