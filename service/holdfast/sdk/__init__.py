"""How the SDK works, behind its public face: replay, the event loop of workflow code, and the worker's loops.

Nothing here is for users, and nothing here knows the service's inside.
"""
