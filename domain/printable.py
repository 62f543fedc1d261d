"""Text for terminals: what a terminal would obey rather than show is escaped."""


def printable(text: str) -> str:
    """Return a text as one line in which every unprintable character is written as its escape."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
