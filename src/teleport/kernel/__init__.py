"""What the kernel tells of the processes of a session: commands, opened files, network connections."""
