"""HTTP/1.1 towards the backends: our own client transport, built for the relay's hot path.

`request` writes heads, `dial` opens sockets, `protocol` is one connection, `pool` keeps the connections of
one backend, `adapter` is the port `domain.ports.Upstream`. Why not a library: docs/decisions/0003.
"""
