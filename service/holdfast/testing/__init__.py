"""Environments for testing workflows and activities; `holdfast.testing.plugin` has fixtures for pytest.

`WorkflowEnvironment.start_time_skipping` needs nothing but the SDK: it is the real engine over tables in memory.
`start_local` is a whole Holdfast on real Postgres and real NATS, and needs the extras `server` and `embedded`.
"""

from holdfast.testing.activities import ActivityEnvironment
from holdfast.testing.environment import WorkflowEnvironment, service_on
from holdfast.testing.exploring import Explored, WentWrong, explore

__all__ = ["ActivityEnvironment", "Explored", "WentWrong", "WorkflowEnvironment", "explore", "service_on"]
