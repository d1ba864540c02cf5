"""A route that says nothing: when it is asked for a sign of life, when it is avoided, when it is taken for dead."""

from smartroute.policy.silence import DEAD_AFTER, PAUSE, Silence

DEPARTED = 100.0


def overdue(departed: float = DEPARTED) -> Silence:
    silence = Silence()
    silence.overdue(departed)
    return silence


def test_nothing_is_suspected_at_first() -> None:
    silence = Silence()
    assert not silence.suspect
    assert not silence.wanted
    assert not silence.failed_since(0.0)


# --- verifications wanted ------------------------------------------------------------------------------


def test_an_attempt_that_waits_has_its_route_verified() -> None:
    silence = Silence()
    silence.look(DEPARTED, 101.0)
    assert silence.wanted


def test_not_if_something_sent_later_was_answered() -> None:
    silence = Silence()
    silence.heard(DEPARTED + 0.1)
    silence.look(DEPARTED, 101.0)
    assert not silence.wanted
    silence.look(DEPARTED + 0.2, 101.0)
    assert silence.wanted


def test_not_again_for_a_while_after_an_answer() -> None:
    silence = Silence()
    silence.verified(101.0, 101.1, alive=True)
    silence.look(DEPARTED, 101.0 + PAUSE)
    assert not silence.wanted
    silence.look(DEPARTED, 101.1 + PAUSE)
    assert silence.wanted


def test_a_failed_verification_wants_another_up_to_the_proof() -> None:
    silence = Silence()
    silence.look(DEPARTED, 101.0)
    for failed in range(1, DEAD_AFTER + 1):
        silence.verified(101.0 + failed, 101.5 + failed, alive=False)
        assert silence.failures == failed
        assert silence.wanted is (failed < DEAD_AFTER)


def test_only_failures_in_a_row_are_a_proof() -> None:
    silence = Silence()
    silence.verified(101.0, 101.5, alive=False)
    silence.verified(102.0, 102.5, alive=True)
    assert silence.failures == 0
    assert not silence.wanted


# --- suspects ------------------------------------------------------------------------------------------


def test_a_route_that_owes_an_answer_is_suspect_until_the_attempt_is_over() -> None:
    silence = overdue()
    assert silence.suspect
    silence.over()
    assert not silence.suspect


def test_what_was_sent_later_and_answered_clears_it() -> None:
    silence = overdue()
    silence.heard(DEPARTED - 1.0)  # on its way before: says nothing of now
    assert silence.suspect
    silence.heard(DEPARTED + 1.0)
    assert not silence.suspect


def test_another_one_overdue_that_was_sent_later_still_makes_it_suspect_again() -> None:
    silence = overdue()
    silence.heard(DEPARTED + 1.0)
    silence.overdue(DEPARTED + 2.0)
    assert silence.suspect


def test_each_that_is_overdue_has_to_end() -> None:
    silence = overdue()
    silence.overdue(DEPARTED + 1.0)
    silence.over()
    assert silence.suspect
    silence.over()
    assert not silence.suspect


def test_a_failed_verification_makes_a_route_suspect_until_it_is_heard() -> None:
    silence = Silence()
    silence.verified(101.0, 101.5, alive=False)
    assert silence.suspect
    silence.heard(100.9)
    assert silence.suspect  # sent before the verification
    silence.heard(101.1)
    assert not silence.suspect


# --- dead to whom --------------------------------------------------------------------------------------


def test_a_failed_verification_speaks_for_what_was_sent_before_it() -> None:
    silence = Silence()
    silence.verified(101.0, 101.5, alive=False)
    assert silence.failed_since(100.9)
    assert not silence.failed_since(101.1)
    silence.verified(102.0, 102.5, alive=True)
    assert not silence.failed_since(100.9)


def test_a_route_that_was_opened_begins_anew() -> None:
    silence = overdue()
    for _ in range(DEAD_AFTER):
        silence.verified(101.0, 101.5, alive=False)
    silence.forget()
    assert not silence.suspect  # its attempts may hang for minutes yet
    assert not silence.wanted
    assert not silence.failed_since(DEPARTED)
    silence.over()
    silence.overdue(200.0)
    assert silence.suspect


def asked(silence: Silence) -> bool:
    return silence.wanted


def test_where_a_verification_failed_an_answered_probe_wants_another() -> None:
    """It came over a kept connection: that says less. But without it nobody would ever ask again."""
    silence = Silence()
    for failed in range(DEAD_AFTER):
        silence.verified(101.0 + failed, 101.5 + failed, alive=False)
    assert not asked(silence)
    silence.connected()
    assert asked(silence)
    silence.verified(110.0, 110.1, alive=True)
    silence.connected()
    assert not asked(silence)


# --- proof, for answers that stopped in the middle -----------------------------------------------------


def test_two_verifications_prove_what_had_not_come_before_the_first() -> None:
    silence = Silence()
    silence.verified(101.0, 101.5, alive=False)
    assert not silence.dead_since(100.0)
    silence.verified(102.0, 102.5, alive=False)
    assert silence.dead_since(100.0)
    assert not silence.dead_since(101.5)  # of what came in between only one of them says something
    silence.forget()  # the route is open now
    assert silence.dead_since(100.0)


def test_two_that_failed_with_a_sign_of_life_between_them_prove_nothing() -> None:
    silence = Silence()
    silence.verified(101.0, 101.5, alive=False)
    silence.verified(102.0, 102.5, alive=True)
    silence.verified(103.0, 103.5, alive=False)
    assert not silence.dead_since(100.0)
