"""Comparing everything that knows of usage: journals, the stream, rows and their sums, counters of limits.

`seen` reads all of it in the order in which a record travels, `records`, `sums` and `counters` say what differs
(pure rules), `findings` what that means, `survey` looks twice and keeps what differs both times, `repair` closes
what can be closed.
"""
