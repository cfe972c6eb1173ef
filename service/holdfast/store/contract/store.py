"""`Store`: the 54 methods of the contract, in its order. Each is bound from the module that holds its statements."""

from __future__ import annotations

from holdfast.store.contract import (
    api_keys,
    namespaces,
    scheduler_lock,
)
from holdfast.store.contract.opening import Opened


class Store(Opened):
    """A store on one database: `await Store.connect(url)`, or `async with await Store.connect(url) as store`.

    All methods are coroutines, single transactions, and safe to call from many processes at once. Errors are the
    classes of `holdfast.exceptions`; times are epoch seconds.
    """

    create_namespace = namespaces.create_namespace
    list_namespaces = namespaces.list_namespaces
    delete_namespace = namespaces.delete_namespace

    create_api_key = api_keys.create_api_key
    validate_api_key = api_keys.validate_api_key
    list_api_keys = api_keys.list_api_keys
    revoke_api_key = api_keys.revoke_api_key

    try_acquire_scheduler_lock = scheduler_lock.try_acquire_scheduler_lock
