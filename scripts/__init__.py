"""Tools for developers; none is a part of the package."""
