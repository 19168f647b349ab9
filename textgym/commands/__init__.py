"""Implementation of the ``textgym`` command, one file for each subcommand."""
