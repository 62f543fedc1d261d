"""How many tokens a request reserves at its admission: never fewer than it can come to.

What it really used is settled at its end, and the difference goes back. Where no backend says what the prompt
was, `probable` does.
"""

import msgspec

from domain.errors import PromptTooLarge
from domain.prompts import Prompt
from domain.usage import BYTES_PER_TOKEN

TOKENS_PER_MESSAGE = 32
"""What a template may put round one message: roles, separators, a turn's beginning and end."""

USUAL_TOKENS_PER_MESSAGE = 4
"""What a template usually puts round one message."""


class Reservation(msgspec.Struct, frozen=True):
    """What a request may come to: `tokens` in all, of which `output_cap` are output.

    `output_cap` may be lower than what was asked for, and the backend must be told this one. None: nothing is
    generated.
    """

    tokens: int
    output_cap: int | None


def estimate(prompt: Prompt, *, context_length: int | None, image_tokens: int) -> int:
    """Return the tokens a prompt cannot exceed.

    A token is at least one byte, and a backend cuts each text to the model's context.

    Parameters
    ----------
    context_length
        Of the model, in tokens; None if it is not known.
    image_tokens
        What one image counts.
    """
    text = prompt.text_bytes + TOKENS_PER_MESSAGE * prompt.messages
    if context_length is not None:
        text = min(text, context_length * prompt.texts)
    return text + image_tokens * prompt.images


def probable(prompt: Prompt, *, context_length: int | None, image_tokens: int) -> int:
    """Return the tokens a prompt is charged for that no backend reported, never more than `estimate` reserves.

    Whoever leaves just before the report must not get images, or the tokens of a `context`, for nothing.
    Parameters are those of `estimate`.
    """
    text = prompt.prompt_bytes // BYTES_PER_TOKEN + prompt.context_tokens
    if context_length is not None:
        text = min(text, context_length * prompt.texts)
    return text + image_tokens * prompt.images


def counted(prompt: Prompt, *, image_tokens: int) -> int:
    """Return what a client is told that asks how many tokens a prompt will be: as if no context were too short."""
    usual = USUAL_TOKENS_PER_MESSAGE * prompt.messages
    return probable(prompt, context_length=None, image_tokens=image_tokens) + usual


def reserve(
    prompt: Prompt,
    *,
    output_cap: int | None,
    context_length: int | None,
    image_tokens: int,
    smallest_token_limit: int | None,
) -> Reservation:
    """Return what a request reserves. Its output cap shrinks, to 1 at least, to fit the smallest whole limit.

    What is left of a limit has no say in it: a request that fits tomorrow is not answered with a stub today.

    Parameters
    ----------
    output_cap
        The output tokens a backend may make; None where nothing is generated.
    context_length, image_tokens
        As in `estimate`.
    smallest_token_limit
        Of all token limits that apply; None if there is none.

    Raises
    ------
    PromptTooLarge
        The prompt and one token of output are more than the limit as a whole.
    """
    tokens = estimate(prompt, context_length=context_length, image_tokens=image_tokens)
    least = tokens if output_cap is None else tokens + 1
    if smallest_token_limit is not None and least > smallest_token_limit:
        raise PromptTooLarge(tokens, smallest_token_limit)
    if output_cap is None:
        return Reservation(tokens, None)
    cap = output_cap if smallest_token_limit is None else min(output_cap, smallest_token_limit - tokens)
    return Reservation(tokens + cap, cap)
