"""Stage 6: what every ending is charged, and the speed that unseen answers are charged by."""

from typing import Final

import pytest

from domain.account import EVAL_RATE_SAMPLES, MAX_RATED_MODELS, EvalRates, Tally
from domain.route import Candidate
from domain.usage import MeasuredUsage, Settlement, UsageOutcome
from tests.support.usage import admission

MODEL: Final = "m:1"
PROMPT: Final = 7  # the builder's estimate
A = Candidate("a", "digest a", silent=False)
B = Candidate("b", "digest b", silent=False)
COMPLETED, CLIENT_CLOSED, CUT = UsageOutcome.COMPLETED, UsageOutcome.CLIENT_CLOSED, UsageOutcome.CUT
FAILED, TRUNCATED = UsageOutcome.UPSTREAM_FAILED, UsageOutcome.UPSTREAM_TRUNCATED
REJECTED = UsageOutcome.REJECTED_UPSTREAM


class Clock:
    """Monotonic seconds that pass when told to."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


class Record:
    """An open record that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[object] = []

    def progress(self, tokens_out: int) -> None:
        self.said.append(tokens_out)

    def sent_to(self, backend: str) -> None:
        self.said.append(backend)

    def settle(self, settlement: Settlement) -> None:
        self.said.append(settlement)


class World:
    """One request with its clock and its record."""

    def __init__(self, *, rate: float = 0.0, output_cap: int = 4096) -> None:
        self.clock = Clock()
        self.record = Record()
        self.rates = EvalRates()
        if rate:
            self.rates.note(MODEL, measured(int(rate * 10), seconds=10), 1)
        self.tally = Tally(
            admission(model=MODEL),
            self.record,
            started=self.clock(),
            rates=self.rates,
            output_cap=output_cap,
            now=self.clock,
        )

    def charged(self, outcome: UsageOutcome) -> tuple[int, int, bool]:
        settled = self.tally.settle(outcome)
        return settled.tokens_in, settled.tokens_out, settled.estimated


def measured(tokens_out: int, *, seconds: float = 0.0, tokens_in: int | None = 3) -> MeasuredUsage:
    return MeasuredUsage(tokens_in, tokens_out, eval_ns=int(seconds * 1e9))


# -- what each ending costs


@pytest.mark.parametrize("streamed", [True, False])
def test_a_measured_answer_is_charged_as_the_backend_measured_it(*, streamed: bool) -> None:
    world = World()
    world.tally.streamed = streamed
    world.tally.attempt(A)
    world.tally.released(4)
    world.tally.usage = measured(5)

    assert world.charged(COMPLETED) == (3, 5, False)


def test_a_prompt_count_that_the_backend_left_out_is_estimated() -> None:
    world = World()
    world.tally.attempt(A)
    world.tally.usage = measured(5, tokens_in=None)

    assert world.charged(COMPLETED) == (PROMPT, 5, True)


def test_a_completed_answer_without_usage_is_charged_what_was_released() -> None:
    world = World(rate=10)
    world.tally.attempt(A)
    world.tally.released(4)

    assert world.charged(COMPLETED) == (PROMPT, 4, True)


@pytest.mark.parametrize("outcome", [CLIENT_CLOSED, CUT, FAILED, TRUNCATED])
def test_an_unfinished_stream_is_charged_what_was_released(outcome: UsageOutcome) -> None:
    world = World(rate=10)
    world.tally.attempt(A)
    world.tally.released(1)
    world.tally.released(0)
    world.tally.released(3)
    world.clock.at += 60

    assert world.charged(outcome) == (PROMPT, 4, True)


@pytest.mark.parametrize("outcome", [CLIENT_CLOSED, CUT, FAILED, TRUNCATED])
def test_a_stream_that_released_a_record_without_tokens_has_cost_its_prompt(outcome: UsageOutcome) -> None:
    world = World(rate=10)
    world.tally.attempt(A)
    world.tally.released(0)

    assert world.charged(outcome) == (PROMPT, 0, True)


@pytest.mark.parametrize("outcome", [CLIENT_CLOSED, CUT])
def test_a_stream_left_before_its_first_record_has_cost_its_prompt(outcome: UsageOutcome) -> None:
    world = World(rate=10)
    world.tally.attempt(A)
    world.clock.at += 60

    assert world.charged(outcome) == (PROMPT, 0, True)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("outcome", [CLIENT_CLOSED, CUT])
def test_between_two_attempts_nothing_is_made_and_nothing_charged(
    outcome: UsageOutcome, *, streamed: bool
) -> None:
    world = World(rate=10)
    world.tally.streamed = streamed
    world.tally.attempt(A)
    world.tally.attempt_failed()
    world.clock.at += 60

    assert world.charged(outcome) == (0, 0, False)


def test_after_a_failed_attempt_the_next_one_is_charged() -> None:
    world = World(rate=10)
    world.tally.attempt(A)
    world.tally.attempt_failed()
    world.tally.attempt(B)

    assert world.charged(CLIENT_CLOSED) == (PROMPT, 0, True)


@pytest.mark.parametrize("outcome", [CLIENT_CLOSED, CUT])
def test_an_unstreamed_answer_nobody_waited_for_is_charged_time_at_the_models_speed(
    outcome: UsageOutcome,
) -> None:
    world = World(rate=10)
    world.tally.streamed = False
    world.clock.at += 100  # waiting before it was sent costs nothing
    world.tally.attempt(A)
    world.clock.at += 2.55

    assert world.charged(outcome) == (PROMPT, 25, True)


def test_the_time_of_failed_attempts_is_not_charged() -> None:
    world = World(rate=10)
    world.tally.streamed = False
    world.tally.attempt(A)
    world.clock.at += 30
    world.tally.attempt(B)
    world.clock.at += 1

    assert world.charged(CLIENT_CLOSED) == (PROMPT, 10, True)


def test_an_unseen_answer_costs_at_most_its_output_cap() -> None:
    world = World(rate=10, output_cap=42)
    world.tally.streamed = False
    world.tally.attempt(A)
    world.clock.at += 600

    assert world.charged(CLIENT_CLOSED) == (PROMPT, 42, True)


def test_an_unseen_answer_of_a_model_never_seen_costs_its_prompt() -> None:
    world = World()
    world.tally.streamed = False
    world.tally.attempt(A)
    world.clock.at += 600

    assert world.charged(CLIENT_CLOSED) == (PROMPT, 0, True)


def test_a_large_answer_in_one_piece_that_broke_off_is_charged_time_at_the_models_speed() -> None:
    world = World(rate=10)
    world.tally.streamed = False
    world.tally.attempt(A)
    world.clock.at += 3
    world.tally.released(0)

    assert world.charged(TRUNCATED) == (PROMPT, 30, True)


def test_a_large_answer_of_a_model_never_seen_costs_what_was_relayed_of_it() -> None:
    world = World(output_cap=1000)
    world.tally.streamed = False
    world.tally.attempt(A)
    world.tally.relayed(1200)
    world.tally.relayed(800)

    assert world.charged(CLIENT_CLOSED) == (PROMPT, 500, True)


@pytest.mark.parametrize("outcome", [COMPLETED, CLIENT_CLOSED, TRUNCATED])
def test_what_was_relayed_in_one_piece_costs_at_most_its_output_cap(outcome: UsageOutcome) -> None:
    world = World(output_cap=42)
    world.tally.streamed = False
    world.tally.attempt(A)
    for _ in range(3):
        world.tally.relayed(100)

    assert world.charged(outcome) == (PROMPT, 42, True)
    assert world.record.said[1:-1] == [25, 42]  # what is booked of a process that dies is bounded too


def test_what_was_relayed_of_a_large_answer_is_no_measure_where_the_speed_is_known() -> None:
    world = World(rate=10)
    world.tally.streamed = False
    world.tally.attempt(A)
    world.clock.at += 3
    world.tally.relayed(4000)  # log probabilities, say

    assert world.charged(CLIENT_CLOSED) == (PROMPT, 30, True)


@pytest.mark.parametrize("outcome", [COMPLETED, CLIENT_CLOSED, TRUNCATED])
def test_a_stream_costs_at_most_its_output_cap_where_nobody_counted(outcome: UsageOutcome) -> None:
    world = World(output_cap=42)
    world.tally.attempt(A)
    world.tally.released(100)

    assert world.charged(outcome) == (PROMPT, 42, True)


@pytest.mark.parametrize(("made", "charged"), [(0, 0), (30, 30), (100, 42)])
def test_work_of_which_the_client_gets_nothing_is_charged(made: int, charged: int) -> None:
    world = World(output_cap=42)
    world.tally.streamed = False
    world.tally.attempt(A)
    world.tally.wasted(made)

    assert world.charged(REJECTED) == (PROMPT, charged, True)


@pytest.mark.parametrize("outcome", [REJECTED, FAILED])
@pytest.mark.parametrize("streamed", [True, False])
def test_a_request_nobody_answered_costs_nothing(outcome: UsageOutcome, *, streamed: bool) -> None:
    world = World(rate=10)
    world.tally.streamed = streamed
    world.tally.attempt(A)
    world.tally.attempt(B)
    world.clock.at += 600

    assert world.charged(outcome) == (0, 0, False)


@pytest.mark.parametrize("outcome", [CLIENT_CLOSED, CUT])
@pytest.mark.parametrize("streamed", [True, False])
def test_a_request_that_was_never_sent_costs_nothing(outcome: UsageOutcome, *, streamed: bool) -> None:
    world = World(rate=10)
    world.tally.streamed = streamed
    world.clock.at += 600

    assert world.charged(outcome) == (0, 0, False)


# -- the record


def test_the_record_hears_of_tokens_and_attempts_in_their_order_and_ends_once() -> None:
    world = World()

    world.tally.attempt(A)
    world.tally.attempt(B)
    world.tally.released(0)
    world.tally.released(2)
    world.tally.released(3)
    first = world.tally.settle(COMPLETED)
    second = world.tally.settle(CUT)

    assert world.record.said == ["a", "b", 2, 5, first]
    assert second is first


def test_the_settlement_names_who_was_tried_and_the_digest_of_the_last() -> None:
    world = World()
    world.tally.attempt(A)
    world.tally.attempt(B)

    settled = world.tally.settle(COMPLETED)

    assert settled.attempted_backends == ("a", "b")
    assert (settled.backend, settled.model_digest) == ("b", "digest b")


def test_a_request_nobody_was_asked_names_nobody() -> None:
    settled = World().tally.settle(CUT)

    assert (settled.backend, settled.model_digest, settled.attempted_backends) == (None, None, ())


def test_durations_are_ours_from_arrival_and_the_backends_from_its_report() -> None:
    world = World()
    world.clock.at += 0.5
    world.tally.attempt(A)
    world.clock.at += 0.25
    world.tally.released(1)
    world.clock.at += 0.25
    world.tally.usage = MeasuredUsage(1, 1, total_ns=10_000, load_ns=1_000, prompt_ns=2_000, eval_ns=3_000)

    took = world.tally.settle(COMPLETED).durations

    assert (took.first_token_us, took.total_us) == (750_000, 1_000_000)
    assert (took.queue_us, took.load_us, took.prompt_us, took.eval_us) == (4, 1, 2, 3)


def test_the_time_in_line_is_part_of_the_queueing() -> None:
    world = World()
    world.tally.queued(0.5)
    world.tally.attempt(A)
    world.tally.queued(0.25)
    world.tally.attempt(B)
    world.tally.usage = MeasuredUsage(1, 1, total_ns=10_000, load_ns=1_000, prompt_ns=2_000, eval_ns=3_000)

    assert world.tally.queued_s == 0.75
    assert world.tally.settle(COMPLETED).durations.queue_us == 750_004


def test_a_request_that_only_waited_has_its_time_in_line_and_costs_nothing() -> None:
    world = World()
    world.tally.queued(0.5)
    settled = world.tally.settle(CLIENT_CLOSED)

    assert settled.durations.queue_us == 500_000
    assert (settled.tokens_in, settled.tokens_out, settled.estimated) == (0, 0, False)


def test_without_a_report_and_without_a_line_nobody_knows_of_queueing() -> None:
    assert World().tally.settle(FAILED).durations.queue_us is None


def test_without_a_released_record_there_is_no_first_token() -> None:
    world = World()
    world.tally.attempt(A)

    assert world.tally.first_token_s() is None
    assert world.tally.settle(FAILED).durations.first_token_us is None


# -- the speed of models


def test_a_model_never_seen_has_no_speed() -> None:
    assert EvalRates().tokens_in(MODEL, 600, at_most=4096) is None


def test_speed_is_the_mean_of_the_last_twenty_completions() -> None:
    rates = EvalRates()
    for _ in range(5):
        rates.note(MODEL, measured(1000, seconds=1), 1)
    for _ in range(EVAL_RATE_SAMPLES // 2):
        rates.note(MODEL, measured(10, seconds=1), 1)
        rates.note(MODEL, measured(30, seconds=1), 1)

    assert rates.tokens_in(MODEL, 2, at_most=4096) == 40


def test_models_do_not_share_their_speed() -> None:
    rates = EvalRates()
    rates.note(MODEL, measured(10, seconds=1), 1)

    assert rates.tokens_in("other:1", 2, at_most=4096) is None


def test_an_answer_whose_backend_reports_no_time_counts_by_the_clock() -> None:
    rates = EvalRates()
    rates.note(MODEL, measured(10), 2.0)

    assert rates.tokens_in(MODEL, 4, at_most=4096) == 20


@pytest.mark.parametrize(("tokens", "elapsed_s"), [(0, 5.0), (10, 0.0)])
def test_an_answer_without_tokens_or_time_says_nothing_of_speed(tokens: int, elapsed_s: float) -> None:
    rates = EvalRates()
    rates.note(MODEL, measured(10, seconds=1), 1)

    rates.note(MODEL, measured(tokens), elapsed_s)

    assert rates.tokens_in(MODEL, 1, at_most=4096) == 10


def test_only_completed_requests_teach_a_speed() -> None:
    world = World()
    world.tally.attempt(A)
    world.tally.usage = measured(10, seconds=1)

    world.tally.settle(CUT)

    assert world.rates.tokens_in(MODEL, 1, at_most=4096) is None


def test_a_completed_request_teaches_its_models_speed() -> None:
    world = World()
    world.tally.attempt(A)
    world.clock.at += 2
    world.tally.usage = measured(10)

    world.tally.settle(COMPLETED)

    assert world.rates.tokens_in(MODEL, 1, at_most=4096) == 5


def test_only_so_many_models_are_remembered() -> None:
    rates = EvalRates()
    for number in range(MAX_RATED_MODELS + 1):
        rates.note(f"m:{number}", measured(10, seconds=1), 1)

    assert rates.tokens_in("m:0", 1, at_most=4096) is None
    assert rates.tokens_in(f"m:{MAX_RATED_MODELS}", 1, at_most=4096) == 10
