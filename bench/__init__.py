"""Benchmarks: `python -m bench [--quick] [names]` prints a table and writes nothing.

Machines differ and share their processors with other work, so what counts are ratios within one run: every measurement
of ours takes turns with its reference (`measure.in_turns`), and the table shows both with their spread.
`docs/benchmarks.md` says what each row means and which target it has.
"""
