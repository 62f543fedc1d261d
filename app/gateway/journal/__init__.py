"""The journal: every admitted request ends as exactly one usage record, whatever dies in between.

`layout` is the file's format, `journal` the file of a living process, `entry` one request's place in it,
`adoption` takes over the files of dead processes, `shipper` carries settled records to the Redis stream and
frees what is committed, `ledger` joins them. `inspection` looks at all files from outside.
"""
