"""All SQL: the journal, claims and due work, views, outbox, migrations, and the store contract (`Store`)."""

from holdfast.store.contract.store import Store

__all__ = ["Store"]
