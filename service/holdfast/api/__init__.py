"""What the service answers over HTTP: decode, call the engine, encode. No rules of the engine live here."""
