"""textgym.agents."""

if __name__ != "textgym.agents":
    raise ImportError("import this package as textgym.agents: under its bare name every class would exist twice")
