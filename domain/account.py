"""Stage 6: what a request cost. Counts while the answer is released, then settles the record exactly once."""

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from domain.ports import OpenEntry
from domain.route import Candidate
from domain.usage import BYTES_PER_TOKEN, Admission, Durations, MeasuredUsage, Settlement, UsageOutcome

EVAL_RATE_SAMPLES: Final = 20
MAX_RATED_MODELS: Final = 10_000


class EvalRates:
    """Output tokens per second this process lately got from each model: the mean of its last 20 completions."""

    def __init__(self) -> None:
        self._samples: OrderedDict[str, deque[float]] = OrderedDict()

    def note(self, model: str, usage: MeasuredUsage, elapsed_s: float) -> None:
        """Remember one completed request.

        Its own evaluation time counts where the backend reports one. OpenAI's shapes hold none; there it is
        `elapsed_s`, the seconds since it was sent: what an unseen answer is charged by as well.
        """
        eval_s = usage.eval_ns / 1e9 or elapsed_s
        if not usage.tokens_out or eval_s <= 0:
            return
        samples = self._samples.get(model)
        if samples is None:
            if len(self._samples) >= MAX_RATED_MODELS:
                self._samples.popitem(last=False)
            samples = self._samples[model] = deque(maxlen=EVAL_RATE_SAMPLES)
        samples.append(usage.tokens_out / eval_s)

    def tokens_in(self, model: str, seconds: float, *, at_most: int) -> int | None:
        """Return how many tokens `model` will have generated in that time; None if it was never seen."""
        samples = self._samples.get(model)
        if not samples:
            return None
        return min(at_most, int(seconds * sum(samples) / len(samples)))


class Tally:
    """The running account of one admitted request.

    `released` must be called before the bytes that carry the tokens are sent: after a crash the record then
    never shows less than the client received.
    """

    __slots__ = (
        "_entry",
        "_first_release",
        "_is_sent",
        "_model_digest",
        "_now",
        "_output_cap",
        "_queued_s",
        "_rates",
        "_sent_at",
        "_started",
        "admission",
        "attempted",
        "backend",
        "settlement",
        "streamed",
        "tokens_out",
        "usage",
    )

    def __init__(
        self,
        admission: Admission,
        entry: OpenEntry,
        *,
        started: float,
        rates: EvalRates,
        output_cap: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take `started` in the seconds of `now`; `output_cap` bounds the estimate of an unseen answer."""
        self.admission = admission
        self._entry = entry
        self._started = started
        self._rates = rates
        self._output_cap = output_cap
        self._now = now
        self._first_release = 0.0
        self._sent_at = 0.0
        self._is_sent = False
        self._queued_s = 0.0
        self._model_digest: str | None = None
        self.attempted: list[str] = []
        self.backend: str | None = None
        self.tokens_out = 0
        self.usage: MeasuredUsage | None = None
        self.streamed = True
        self.settlement: Settlement | None = None

    def attempt(self, candidate: Candidate) -> None:
        """Note that the request goes to `candidate` now."""
        self.attempted.append(candidate.backend)
        self.backend = candidate.backend
        self._model_digest = candidate.model_digest
        self._entry.sent_to(candidate.backend)
        self._sent_at = self._now()
        self._is_sent = True

    def attempt_failed(self) -> None:
        """Note that the last attempt came to nothing: until the next one no backend works for the request."""
        self._is_sent = False

    def queued(self, seconds: float) -> None:
        """Note that the request stood in line for so long before an attempt."""
        self._queued_s += seconds

    @property
    def queued_s(self) -> float:
        """Seconds that the request has stood in line."""
        return self._queued_s

    def released(self, tokens: int) -> None:
        """Note output tokens whose bytes are about to be sent."""
        if not self._first_release:
            self._first_release = self._now()
        if tokens:
            self.tokens_out += tokens
            self._entry.progress(self.tokens_out)

    def relayed(self, size_bytes: int) -> None:
        """Note bytes of an answer in one piece that are about to be sent before anybody knows what it cost."""
        self.released(max(0, min(size_bytes // BYTES_PER_TOKEN, self._output_cap - self.tokens_out)))

    def wasted(self, tokens: int) -> None:
        """Note that a backend did its work, and made so many output tokens, of which the client gets nothing."""
        self.usage = MeasuredUsage(None, min(tokens, self._output_cap))

    def first_token_s(self) -> float | None:
        """Seconds from arrival to the first released record."""
        return self._first_release - self._started if self._first_release else None

    def settle(self, outcome: UsageOutcome) -> Settlement:
        """Close the record. Later calls return the first settlement."""
        if self.settlement is None:
            self.settlement = self._settlement(outcome)
            self._entry.settle(self.settlement)
            if outcome is UsageOutcome.COMPLETED and self.usage is not None:
                self._rates.note(self.admission.model, self.usage, self._now() - self._sent_at)
        return self.settlement

    def _settlement(self, outcome: UsageOutcome) -> Settlement:
        tokens_in, tokens_out, estimated = self._charge(outcome)
        return Settlement(
            outcome=outcome,
            ended_at=datetime.now(UTC),
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            tokens_cached=None,
            estimated=estimated,
            backend=self.backend,
            attempted_backends=tuple(self.attempted),
            durations=self._durations(),
            model_digest=self._model_digest,
        )

    def _charge(self, outcome: UsageOutcome) -> tuple[int, int, bool]:
        """Return tokens in, tokens out, and whether they are an estimate.

        Measured where a backend reported it; else what was released, or, of an answer in one piece, what was
        generated meanwhile. A request that failed or was refused before its first record is charged nothing.
        """
        prompt = self.admission.prompt_tokens_estimate
        if self.usage is not None:
            unknown = self.usage.tokens_in is None
            return (
                (prompt if self.usage.tokens_in is None else self.usage.tokens_in),
                self.usage.tokens_out,
                unknown,
            )
        released = min(self.tokens_out, self._output_cap)
        if outcome is UsageOutcome.COMPLETED:
            return prompt, released, True
        left_early = outcome in {UsageOutcome.CLIENT_CLOSED, UsageOutcome.CUT} and self._is_sent
        if not left_early and not self._first_release:
            return 0, 0, False
        return prompt, released if self.streamed else self._unseen(), True

    def _unseen(self) -> int:
        """Return what a backend will have generated for an answer that nobody waited for.

        While the model's speed is not known, it is what was relayed of it: nothing as a rule, for most answers are held
        back until they are complete.
        """
        elapsed = self._now() - self._sent_at
        made = self._rates.tokens_in(self.admission.model, elapsed, at_most=self._output_cap)
        return self.tokens_out if made is None else made

    def _durations(self) -> Durations:
        first = self.first_token_s()
        measured = self.usage.durations() if self.usage is not None else Durations()
        queue_us = measured.queue_us
        if self._queued_s:
            queue_us = (queue_us or 0) + int(self._queued_s * 1e6)
        return Durations(
            queue_us=queue_us,
            load_us=measured.load_us,
            prompt_us=measured.prompt_us,
            eval_us=measured.eval_us,
            first_token_us=None if first is None else int(first * 1e6),
            total_us=int((self._now() - self._started) * 1e6),
        )
