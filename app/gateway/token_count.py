"""`/v1/messages/count_tokens`: how many tokens a prompt will roughly be, without asking any backend.

Ollama has no such route, and only the model's own tokenizer would know. Who may not use the model is not told
anything about it here either; nothing is admitted and nothing is booked.
"""

from functools import partial
from typing import Final

import msgspec

from app.gateway.downstream import JSON
from app.gateway.endpoint import Visit
from app.gateway.gateway import Gateway
from domain.authorize import authorize
from domain.requests import parse_count
from domain.reservations import counted
from domain.routes import RouteSpec

PATH: Final = "/v1/messages/count_tokens"


async def count_tokens(visit: Visit, spec: RouteSpec, gateway: Gateway) -> None:
    """Answer with an estimate for a request that could be sent to `spec`."""
    call = visit.call
    principal = await gateway.principal(call)
    visit.note.tenant = principal.tenant_slug
    visit.note.key = principal.key_prefix
    bodies = gateway.bodies
    model, prompt = await bodies.parse(partial(parse_count, spec), await bodies.read(call, visit.receive))
    while not gateway.is_current(principal, call):  # a revocation may have come with the body
        principal = await gateway.principal(call)
    name, _ = authorize(model, rights=gateway.rights(principal), index=gateway.catalogue.index)
    visit.note.model = name.display
    answer = {"input_tokens": counted(prompt, image_tokens=gateway.image_tokens)}
    await visit.downstream.answer(200, JSON, msgspec.json.encode(answer))
