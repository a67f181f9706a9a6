"""The audit log: typed events, a hash chain per emitter, spools, intake, checkpoints, search and verification.

`events`, `codes` and `chain` are pure; the other modules are their adapters to files, tasks and threads. The formats
are in `docs/audit-events.md` and `docs/audit-log.md`. Callers import the modules by name, so that a command that only
reads events does not load the rest.
"""
