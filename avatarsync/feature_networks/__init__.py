"""Frozen networks that losses and metrics look at faces with, in plain torch: architectures and their weight files.

`avatarsync.perceptual` and `avatarsync.identity` load them by name or by path.
"""
