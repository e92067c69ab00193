"""Merging: methods are pure functions on tensors, `engine` streams files through one, `resident` rewrites memory.

Both paths form every tensor with the same function, so that a merged folder and a point of a sweep agree bit for bit.
"""
