"""``textgym migrate``: settings of other libraries, converted as far as they have an equivalent."""
