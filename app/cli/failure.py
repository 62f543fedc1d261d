"""How a command says that it did not do what it was asked to."""

FAILED = 1
BAD_INPUT = 2


class CommandFailed(Exception):  # noqa: N818 - reads as what happened
    """The text is one sentence for whoever typed the command; it never holds a secret."""

    exit_code = FAILED


class InputRefused(CommandFailed):
    """What was typed or configured cannot be used."""

    exit_code = BAD_INPUT


class DatabaseTrouble(CommandFailed):
    """The database cannot be reached, refuses us, or is not migrated."""


class ReaderLeft(Exception):  # noqa: N818 - reads as what happened
    """Whoever read our output has had enough. No `OSError`, which would be taken for one of Postgres."""


def sentence(refusal: Exception) -> str:
    """Return a refusal of the control plane as a sentence of its own."""
    text = str(refusal)
    return f"{text[:1].upper()}{text[1:]}."
