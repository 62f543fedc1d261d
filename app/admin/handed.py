"""What the framework hands to every handler that names it."""

from litestar.di import NamedDependency

from app.admin.administration import Administration
from app.admin.logins import Caller

Admin = NamedDependency[Administration]
By = NamedDependency[Caller]
