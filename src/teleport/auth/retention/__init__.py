"""How long events are kept, and what is held from being pruned (`docs/audit-log.md`, Pruning)."""
