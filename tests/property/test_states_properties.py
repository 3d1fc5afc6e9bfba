"""Whatever is said to the state machine, in whatever order: one end, and attempts that only grow."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from faaspot_api.domain import states
from faaspot_api.domain.states import End, Report, State

REPORTS = st.builds(Report, attempt=st.integers(1, 4), token=st.sampled_from(["t1", "t2", "t3", "t4"]))
ENDS = st.sampled_from(
    [
        End(status="Success"),
        End(status="Failure", reason="error"),
        End(status="Failure", reason="worker_lost"),
        End(status="Cancelled", reason="cancelled"),
    ]
)
MOVES = st.one_of(
    st.tuples(st.just("start"), REPORTS, ENDS),
    st.tuples(st.just("end"), REPORTS, ENDS),
    st.tuples(st.just("retry"), REPORTS, ENDS),
    st.tuples(st.just("cancel"), REPORTS, ENDS),
)


def _move(state: State, what: str, report: Report, end: End) -> State | None:
    match what:
        case "start":
            return states.start(state, report)
        case "end":
            return states.end(state, report, end)
        case "retry":
            return states.retry(state, f"t{state.attempt + 1}")
        case _:
            return states.cancel(state)


@given(st.lists(MOVES, max_size=30))
def test_there_is_exactly_one_end_and_it_is_of_the_present_attempt(moves: list[tuple[str, Report, End]]) -> None:
    state, ends = states.pending("run", "t1"), 0
    for what, report, end in moves:
        after = _move(state, what, report, end)
        if after is None:
            continue
        assert not states.is_ended(state.status), "a terminal state was left"
        assert after.attempt - state.attempt == (1 if what == "retry" else 0)
        assert (after.token != state.token) == (what == "retry")
        if what in ("start", "end"):
            assert (report.attempt, report.token) == (state.attempt, state.token)
        ends += states.is_ended(after.status)
        state = after
    assert ends == int(states.is_ended(state.status))
    assert ends <= 1
