"""Stage 2: may this principal use this model, and does anybody host it? One refusal for every no."""

from domain.errors import ModelForbidden
from domain.model_names import CanonicalName, ModelRights, canonical
from domain.route import Candidate, ModelIndex


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
