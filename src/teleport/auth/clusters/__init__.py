"""Clusters that trust each other: establishing it, exchanging authorities, taking it away."""
