"""textgym.rewards."""

if __name__ != "textgym.rewards":
    raise ImportError("import this package as textgym.rewards: under its bare name every class would exist twice")
