"""teleport.yaml and the flags of `teleport start`: parsed once, strictly, into values that services are built from.

Import from the modules: who has a `Config` (`values`) already needs none of what reads one (memory, start).
"""
