"""Stage 4: which backends may serve a model now, in which order."""

from collections.abc import Collection, Iterable, Sequence

import msgspec

from domain.model_table import BackendCondition, HostedModel, ModelTable


class Candidate(msgspec.Struct, frozen=True):
    """One backend that hosts the model. `silent`: it has not answered polls for a long time.

    `version` is what it last said of itself, None if that is not known. `allows_cloud` is the operator's word for it.
    """

    backend: str
    model_digest: str
    silent: bool
    version: str | None = None
    allows_cloud: bool = False


class ModelIndex:
    """One snapshot of the model table, turned round: model name -> candidates in the operator's order.

    `config_digests` maps the backends that this process is configured with to their config digest; a backend
    that the table names but this process does not know, or knows under another address, is left out and
    listed in `ignored`. Those in `drained` are nobody's candidates. `allow_cloud` names those that may use Ollama's
    cloud.
    """

    def __init__(
        self, table: ModelTable, config_digests: dict[str, str], *, allow_cloud: Collection[str] = ()
    ) -> None:
        self.table = table
        self.ignored = tuple(
            state.name for state in table.backends if config_digests.get(state.name) != state.config_digest
        )
        self.backends = tuple(state for state in table.backends if state.name not in self.ignored)
        self.drained = frozenset(state.name for state in self.backends if state.drained)
        by_name: dict[str, list[Candidate]] = {}
        lengths: dict[str, list[int | None]] = {}
        for state in self.backends:
            silent, cloud = state.condition is BackendCondition.SILENT, state.name in allow_cloud
            for model in state.models:
                by_name.setdefault(model.name, []).append(
                    Candidate(state.name, model.digest, silent, state.version, cloud)
                )
                lengths.setdefault(model.name, []).append(_context_length(model))
        self._candidates = {name: self._in_service(found) for name, found in by_name.items()}
        self._embedders = {name: self._in_service(_of_one_digest(found)) for name, found in by_name.items()}
        self._context_lengths = {name: _widest(found) for name, found in lengths.items()}

    def _in_service(self, hosts: Iterable[Candidate]) -> tuple[Candidate, ...]:
        """Leave out those that are drained, and put those that answer first."""
        return _answering_first([host for host in hosts if host.backend not in self.drained])

    def context_length(self, model: str) -> int | None:
        """Return how many tokens of context `model` has at most, whoever answers; None if that is not known.

        The largest over its backends, and only where each of them tells: it serves as a bound.
        """
        return self._context_lengths.get(model)

    def candidates(self, model: str) -> tuple[Candidate, ...]:
        """Return the backends in service that host `model`: answering ones first, silent ones last."""
        return self._candidates.get(model, ())

    def embedders(self, model: str) -> tuple[Candidate, ...]:
        """Return the candidates that embed with one and the same digest of `model`.

        Vectors of different digests cannot be compared, so they must never be mixed. The digest of the first
        backend in the operator's order counts, whether that backend answers or not, drained or not: neither moves
        traffic to another digest, and processes that read the same table agree. It changes when the operator changes
        the order or that backend's model.
        """
        return self._embedders.get(model, ())


def _answering_first(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    return tuple(sorted(candidates, key=lambda candidate: candidate.silent))


def _of_one_digest(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """Keep those with the digest of the first; a digest that nobody knows is the same as no other."""
    first = candidates[0]
    if not first.model_digest:
        return (first,)
    return [candidate for candidate in candidates if candidate.model_digest == first.model_digest]


def _context_length(model: HostedModel) -> int | None:
    length = model.details.get("context_length")
    return length if type(length) is int and length > 0 else None


def _widest(lengths: Sequence[int | None]) -> int | None:
    known = [length for length in lengths if length is not None]
    return max(known) if len(known) == len(lengths) else None


def rank(candidates: tuple[Candidate, ...], cooling: Collection[str]) -> tuple[Candidate, ...]:
    """Put backends in cooldown after those that are well, and silent ones last.

    They are not left out: when everybody else has failed, one that failed a moment ago is a better answer than
    none (docs/decisions/0005).
    """
    if not cooling:
        return candidates
    return tuple(sorted(candidates, key=lambda candidate: (candidate.silent, candidate.backend in cooling)))


def eligible(candidates: Sequence[Candidate], cooling: Collection[str]) -> Sequence[Candidate]:
    """Return the candidates worth waiting for, in their order: those that are well; all of them if none is.

    One that failed a moment ago, or was silent for long, is no reason to leave the line of one that works.
    """
    ranked = rank(tuple(candidates), cooling)
    well = [each for each in ranked if not each.silent and each.backend not in cooling]
    return well or ranked
