"""Potstill distils a large fine-tuned encoder into a small, fast student that is proven, registered and served."""

__version__ = "0.1.0"
