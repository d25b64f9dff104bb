"""Who asks, as far as the services need to know."""

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

Role = Literal["admin", "user"]


@dataclass(frozen=True, slots=True)
class Account:
    id: UUID
    email: str
    name: str
    role: Role

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"


@dataclass(frozen=True, slots=True)
class Viewer:
    """`refusal` says why a credential that was given did not count; such a viewer is anonymous where that is allowed. `address` is
    where the request comes from, by which visitors are told apart; None for one that is made within the process."""

    account: Account | None = None
    refusal: str | None = None
    address: str | None = None

    @property
    def user_id(self) -> UUID | None:
        return self.account.id if self.account is not None else None


ANONYMOUS = Viewer()
