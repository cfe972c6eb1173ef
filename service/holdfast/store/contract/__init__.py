"""The store contract: 54 methods by which programs read and write what Holdfast keeps, without the engine.

A row belongs to who made it. What the contract wrote, the contract changes; what the engine drives, only the engine
changes; reads show both. Every change is told on `hf.journal.<namespace>.<record>` in commit order, and none of
them writes history. Rules live in `core`, statements here.
"""
