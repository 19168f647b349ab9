"""``python -m textgym.commands.online ROLE RUN``: a role of a run in a process of its own; see :mod:`.roles`."""

import sys

from textgym.commands.online.roles import play_role

if __name__ == "__main__":
    play_role(sys.argv[1:])
