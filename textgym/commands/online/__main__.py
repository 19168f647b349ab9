"""``python -m textgym.commands.online ROLE RUN``: a role of a run in a process of its own; see :mod:`.roles`."""

import sys

from textgym.commands.online.roles import main

if __name__ == "__main__":
    main(sys.argv[1:])
