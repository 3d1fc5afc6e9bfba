"""The published clients, unmodified, against the whole running platform."""

from tests.contract.test_old_clients import *  # noqa: F403 - the same tests, with this suite's `platform`
