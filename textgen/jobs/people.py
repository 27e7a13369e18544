"""Whose runs are whose."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Person:
    """Whose runs may be seen and touched: those with this key as their owner, or all for an administrator.

    `key` owns what the person makes now; under `former_key`, where there is one, they have made things before.
    """

    key: str
    is_admin: bool = False
    former_key: str | None = None

    def owns(self, owner: str) -> bool:
        return self.is_admin or owner in (self.key, self.former_key)


# On one's own machine everything is one's own.
EVERYBODY = Person("", is_admin=True)
