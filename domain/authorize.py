"""Stage 2: may this principal use this model, and does anybody host it? One refusal for every no."""

from typing import Final

from domain.errors import BadRequest, ModelForbidden
from domain.model_names import CanonicalName, ModelRights, canonical
from domain.route import Candidate, ModelIndex

NO_WEB_TOOLS: Final = (
    "the built-in tools 'web_search' and 'web_fetch' are not available here: they would send parts of the"
    " conversation to a service in the internet; leave them out of 'tools' (in Codex, set web_search = \"disabled\"),"
    " or offer a function of your own"
)


def authorize(
    model: str, *, rights: ModelRights, index: ModelIndex, embeds: bool = False
) -> tuple[CanonicalName, tuple[Candidate, ...]]:
    """Return the model's canonical name and the backends that host it.

    With `embeds` only those whose vectors can be compared with each other (`ModelIndex.embedders`).

    Every question is asked whatever the earlier ones answered, so that the time spent does not tell an absent
    model from a forbidden one.

    Raises
    ------
    ModelForbidden
        Not a name, not granted or not hosted, as every cloud model is where no backend allows it: no difference.
    """
    name = canonical(model)
    if name is None:
        raise ModelForbidden
    permitted = rights.permit(name)
    candidates = index.embedders(name.display) if embeds else index.candidates(name.display)
    if not (permitted and candidates):
        raise ModelForbidden
    return name, candidates


def able_to_search(candidates: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    """Return the candidates that may work the built-in web tools: their queries go out in the operator's name.

    Raises
    ------
    BadRequest
        The operator allows it for none of them.
    """
    able = tuple(candidate for candidate in candidates if candidate.allows_cloud)
    if not able:
        raise BadRequest(NO_WEB_TOOLS)
    return able
