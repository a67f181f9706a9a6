"""The daemon: configuration, and the services put together in one process."""
