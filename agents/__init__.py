"""textgym.agents: policies, the collect-and-train loop, and the algorithms as declarations on it.

The names are listed in ``__init__.pyi``; each is imported when it is first asked for.
"""

import lazy_loader

if __name__ != "textgym.agents":
    raise ImportError("import this package as textgym.agents: under its bare name every class would exist twice")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
