"""What the ``textgym`` command does, one file for each subcommand."""
