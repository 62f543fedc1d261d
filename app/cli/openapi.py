"""`openapi`: the description of the HTTP interface."""

from pathlib import Path

from app.cli.failure import CommandFailed
from app.cli.output import say
from app.cli.place import reason


def openapi(*, output: Path | None = None, admin: bool = False) -> None:
    """Print the OpenAPI 3.1 document of the routes that tenants use and of the admin API.

    Example: `neuronetz-gateway openapi --output docs/openapi.json`

    Parameters
    ----------
    output
        File to write instead of printing.
    admin
        Only the admin API, for SDKs.
    """
    from app.openapi import render_document

    text = render_document(admin_only=admin)
    if output is None:
        print(text, end="")
        return
    try:
        output.write_text(text)
    except OSError as exc:
        raise CommandFailed(f"{output} cannot be written: {reason(exc)}.") from None
    say(f"Wrote {output}.")
