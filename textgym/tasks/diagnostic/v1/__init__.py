"""Version 1 of the diagnostic tasks: prompts of which some are held out, a price of KL that counts, drawn instances.

They keep the difficulty of version 0, one each, and mend what made it easy to pass without learning:

- β is so large that a policy with one response per prompt falls short of a score of 0.8, however good the responses.
- The best response depends on the prompt. Training has the split ``train`` and scoring the split ``test``, whose
  prompts are new but made of words that training has.
- ``seed`` draws an instance: values, secrets, habits, what is held out, and the weights of the reference.
"""
