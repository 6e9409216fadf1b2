"""Cut pets out of photos with Keras."""

__version__ = "0.1.0"


def __getattr__(name):
    """`petseg.load_pretrained` is at hand without importing TensorFlow before it is used."""
    if name == "load_pretrained":
        from petseg.predict import load_pretrained

        return load_pretrained
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
