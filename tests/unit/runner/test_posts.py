"""Who stands where: each post one thread, and of those who wait the last one first."""

from __future__ import annotations

import threading
from queue import SimpleQueue

from faaspot_runner.posts import Posts
from tests.platforms import eventually

A, B = ("a", "a:taken"), ("b", "b:taken")


def test_posts_are_taken_in_turn_and_the_longest_free_one_first() -> None:
    posts = Posts([A, B])
    assert posts.take() == A
    posts.leave(A)
    assert posts.take() == B, "who has waited at one in vain gets to the other"
    posts.leave(B)
    assert posts.take() == A


def test_of_those_who_wait_the_last_one_goes_first_and_nobody_is_forgotten() -> None:
    posts = Posts([A])
    assert posts.take() == A
    stood: SimpleQueue[int] = SimpleQueue()

    def stand(number: int) -> None:
        posts.take()
        stood.put(number)
        posts.leave(A)

    threads = [threading.Thread(target=stand, args=[number], daemon=True) for number in range(3)]
    for number, thread in enumerate(threads):
        thread.start()
        eventually(lambda number=number: len(posts._waiting) == number + 1, 10, "it waits")
    posts.leave(A)
    assert [stood.get(timeout=10) for _ in threads] == [2, 1, 0]
    assert posts.take() == A
