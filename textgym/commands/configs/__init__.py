"""Settings of every command, as dataclasses.

They import nothing heavy, so that ``--help`` and usage errors are answered before torch and transformers are loaded.
"""
