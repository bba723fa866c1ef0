"""The verbs. The command line and other faces call these and nothing below; `eutectic` shows them under one name.

Three files, by what they load: `models` needs no torch, so that a header is read at once; `recipes` loads the
methods; `runs` the engine.
"""
