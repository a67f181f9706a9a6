"""The three commands: arguments in; text, JSON and exit codes out. Start-up is a hot path: import late."""
