"""Hyperparameters of ``textgym train`` and ``textgym pipeline``: those of the chosen algorithm, with its defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, make_dataclass, replace
from functools import cache
from typing import Any, TypeVar

from textgym.agents.settings import FORMER, SETTINGS, Common, RatioSettings, Settings, find_settings, setting_names
from textgym.lm.sampling import Sampling

Base = TypeVar("Base")

DEFAULT_ALGORITHM = "ppo"
CAUTIOUS_WARMUP = 10
"""``warmup_iterations`` of ``textgym train``, for models of anyone's: measured in docs/rates.md. The algorithms' own
defaults, which ``textgym pipeline`` has, are those of the published runs."""
CAUTIOUS_KL = 0.02
"""``target_kl`` there, in algorithms with an importance ratio."""


@dataclass(frozen=True)
class Hyperparameters(Settings, Sampling, Common):
    """Hyperparameters of an algorithm; :func:`hyperparameters_class` adds the settings that not every one has."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        Sampling.__post_init__(self)
        Common.__post_init__(self)

    @property
    def sampling(self) -> Sampling:
        """Behaviour distribution."""
        return Sampling(**_part(self, Sampling))

    def settings(self, kind: type[Settings]) -> dict[str, Any]:
        """Return the settings of an algorithm's own class, as its constructor takes them."""
        return _part(self, kind)


def _part(whole: Hyperparameters, kind: type[Any]) -> dict[str, Any]:
    return {one.name: getattr(whole, one.name) for one in fields(kind)}


def variant(base: type[Base], **given: tuple[Any, Callable[[], Any]]) -> type[Base]:
    """Return a subclass of a dataclass of settings, of the same name, in which some fields differ.

    Args:
        base: the dataclass.
        given: the type and the maker of the default of each field that differs.
    """
    changed = [(name, kind, field(default_factory=default)) for name, (kind, default) in given.items()]
    namespace = {"__doc__": base.__doc__, "__module__": base.__module__}
    made: type[Base] = make_dataclass(base.__name__, changed, bases=(base,), namespace=namespace, frozen=True)
    return made


@cache
def hyperparameters_class(algorithm: str) -> type[Hyperparameters]:
    """Return the dataclass of an algorithm's hyperparameters; it is a subclass of the algorithm's settings class.

    Raises:
        ValueError: there is no such algorithm; the nearest is named.
    """
    own = find_settings(algorithm)
    made: type[Hyperparameters] = make_dataclass(
        f"{own.__name__.removesuffix('Settings')}Hyperparameters",
        [],
        bases=(own, Hyperparameters),
        namespace={"__doc__": f"Hyperparameters of {algorithm}."},
        frozen=True,
    )
    return made


def cautious(algorithm: str) -> Hyperparameters:
    """Return an algorithm's defaults with a warm-up and, where it has an importance ratio, a bound on each update."""
    own = find_settings(algorithm)
    bound: dict[str, Any] = {"target_kl": CAUTIOUS_KL} if issubclass(own, RatioSettings) else {}
    return hyperparameters_class(algorithm)(warmup_iterations=CAUTIOUS_WARMUP, **bound)


AS_BEGUN = ("warmup_iterations", "target_kl", *FORMER)
"""Hyperparameters whose defaults differ from those of earlier versions: a resumed run keeps its own."""

Own = TypeVar("Own", bound=Hyperparameters)


def as_begun_with(given: Own, defaults: Hyperparameters, kept: Mapping[str, Any]) -> Own:
    """Return hyperparameters of which those in :data:`AS_BEGUN` that are at their defaults are a resumed run's own.

    Args:
        given: what the command line says.
        defaults: the same, if it said nothing.
        kept: the run's settings, by name.
    """
    known = [name for name in AS_BEGUN if name in kept and hasattr(given, name)]
    own: dict[str, Any] = {name: kept[name] for name in known if getattr(given, name) == getattr(defaults, name)}
    return replace(given, **own)


def check_hyperparameters(algorithm: str, given: Hyperparameters) -> None:
    """Raise ValueError unless hyperparameters are those of an algorithm."""
    if not isinstance(given, hyperparameters_class(algorithm)):
        raise ValueError(
            f"hyperparameters={type(given).__name__} are not those of algorithm={algorithm!r}; expected "
            f"hyperparameters_class({algorithm!r})(…)"
        )


def algorithms_with(name: str) -> list[str]:
    """Return the algorithms that have a setting, by name."""
    return [algorithm for algorithm, kind in SETTINGS.items() if name in setting_names(kind)]
