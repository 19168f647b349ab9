"""Numbers without meaning are refused where they are given, by the name of the setting."""

from __future__ import annotations
