"""What keeps a host from serving, or will: looked for from outside, each finding with the command that mends it.

A check is a function from a `Patient` to findings. It changes nothing, and tells no secret: files are named, never
quoted. What it could not look at it says (`Unseen`), so that nobody takes silence for health.
"""
