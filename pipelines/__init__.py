"""The verbs of the command line: each a story VERB.py and its settings VERB.toml."""
