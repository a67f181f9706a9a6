"""What tsh is made of: profiles on disk, the proxy's web API, logging in, what auth says, OpenSSH's files.

Nothing here prints or asks; `cli.tsh` does. Modules import heavy libraries when they need them, so that `tsh status` starts
as quickly as Python does.
"""
