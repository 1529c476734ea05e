"""A project's tenants, as django-tenants wants them."""

from __future__ import annotations

from django_tenants.models import DomainMixin, TenantMixin


class Tenant(TenantMixin):
    """One tenant; its schema is made by nobody, because nothing is kept in it."""

    auto_create_schema = False


class Domain(DomainMixin):
    """Where a tenant is found."""
