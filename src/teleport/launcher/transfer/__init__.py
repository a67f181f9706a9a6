"""Files moved by a session's own process, as its Unix user: an SFTP server, the protocol of rcp (scp), rsync.

The process is forked like any program of a session and has dropped every privilege, but runs no shell and, except for
rsync, no other program. It cannot be traced by its user. What its rules do not leave open it asks the daemon about,
naming what it *holds open* by its real path, and then goes on with just that (threats T49); what it moves and changes
it tells the daemon, and answers its client once that is on record (T46).
"""

from teleport.launcher.transfer.serve import serve

__all__ = ["serve"]
