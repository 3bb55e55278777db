"""From the text of a config to checked values, and from the names in it to objects.

A `Source` is read (json_text.py, source.py) and changed (changes.py); `check` compares it with the
schema (schema.py, settings.py, checking.py). Up to here nothing imports torch. A `Factory` builds
what the config names: components.py finds a class or function of a section's kind (kinds.py),
arguments.py compares its signature with what it is given, nested.py does both for what is named
inside a loader's arguments, optimization.py builds the optimizer and the scheduler.
Callers: machinery/launch/ reads and checks, parse_config.py is a `Factory`, train.py builds.
"""
