"""Frozen networks that losses and metrics look at faces with, in plain torch: architectures and their weight files.

`avatarsync.perceptual`, `identity`, `distribution_features` and `sync` load them by name or by path.
"""
