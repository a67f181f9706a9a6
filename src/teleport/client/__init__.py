"""What tsh is made of: profiles on disk, the proxy's web API, logging in, what auth says, OpenSSH's files.

Nothing here prints or asks; `cli.tsh` does. Heavy libraries are imported where they are needed: `tsh status` starts
as quickly as Python does.
"""
