"""The command line, `kfp-vision`."""

from kfp_vision.cli.commands import main

__all__ = ["main"]
