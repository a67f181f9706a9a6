"""Keys, certificates and authorities: build, sign, parse, verify. Bytes and values in, values out.

Nothing here reads files, clocks or sockets. `cryptography` is imported where a key is used, so that programs which
only read a certificate (`tsh status`) start quickly.
"""
