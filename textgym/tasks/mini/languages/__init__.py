"""Template grammars of the mini tasks: their words and sentences."""
