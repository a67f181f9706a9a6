"""Session recordings: the exact bytes of a session, with their times, provably whole.

`format` is pure and is what `docs/recording-format.md` describes. Around it: `writer` records on the node and
`recovery` ends what a killed process left, `upload` ships finished recordings to a sink, `storage` keeps them on
the auth service, `verify` names the first broken place, `player` and `export` show them, and `sanitise` stands
between recorded bytes and a viewer's terminal.
"""
