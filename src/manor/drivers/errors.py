"""Errors that cross the RPC, with libvirt's numbers and with the words that its clients look for."""

from __future__ import annotations

import uuid as uuid_module
from collections.abc import Iterator
from contextlib import contextmanager

from manor.base.errors import ApiError, ConfigError
from manor.rpc.protocol.errors import ErrorCode, ErrorOrigin

Code = ErrorCode
Origin = ErrorOrigin


def uuid_text(uuid: bytes) -> str:
    """A UUID as people write it."""
    return str(uuid_module.UUID(bytes=bytes(uuid)))


def no_domain(what: str) -> ApiError:
    """what: as libvirt says it, `with matching name 'web1'`."""
    return ApiError(Code.NO_DOMAIN, Origin.DOMAIN, f"Domain not found: no domain {what}")


def no_network(what: str) -> ApiError:
    """There is no such network."""
    return ApiError(Code.NO_NETWORK, Origin.NETWORK, f"Network not found: no network {what}")


def no_pool(what: str) -> ApiError:
    """There is no such pool."""
    return ApiError(Code.NO_STORAGE_POOL, Origin.STORAGE, f"Storage pool not found: no storage pool {what}")


def no_volume(what: str) -> ApiError:
    """There is no such volume."""
    return ApiError(Code.NO_STORAGE_VOL, Origin.STORAGE, f"Storage volume not found: no storage vol {what}")


def no_snapshot(name: str) -> ApiError:
    """There is no such snapshot."""
    return ApiError(
        Code.NO_DOMAIN_SNAPSHOT,
        Origin.DOMAIN_SNAPSHOT,
        f"Domain snapshot not found: no domain snapshot with matching name '{name}'",
    )


def not_running(origin: int = Origin.DOMAIN) -> ApiError:
    """The domain would have to run."""
    return ApiError(
        Code.OPERATION_INVALID, origin, "Requested operation is not valid: domain is not running; start it first"
    )


def invalid(message: str, origin: int = Origin.DOMAIN) -> ApiError:
    """The state forbids it. message: goes on after the usual words."""
    return ApiError(Code.OPERATION_INVALID, origin, f"Requested operation is not valid: {message}")


def invalid_argument(message: str, origin: int = Origin.DOMAIN) -> ApiError:
    """An argument makes no sense."""
    return ApiError(Code.INVALID_ARG, origin, f"invalid argument: {message}")


def failed(message: str, origin: int = Origin.DOMAIN) -> ApiError:
    """It was tried and did not work."""
    return ApiError(Code.OPERATION_FAILED, origin, f"operation failed: {message}")


def unsupported(message: str, origin: int = Origin.DOMAIN) -> ApiError:
    """The driver cannot do that. message: what, and what can be done instead."""
    return ApiError(Code.NO_SUPPORT, origin, f"this function is not supported by the connection driver: {message}")


def unsupported_config(message: str, origin: int = Origin.DOMAIN) -> ApiError:
    """A description asks for what there is not."""
    return ApiError(Code.CONFIG_UNSUPPORTED, origin, f"unsupported configuration: {message}")


def xml_error(message: str, origin: int = Origin.DOMAIN) -> ApiError:
    """A description is malformed."""
    return ApiError(Code.XML_ERROR, origin, f"XML error: {message}")


def no_device(message: str) -> ApiError:
    """The domain has no such device."""
    return ApiError(Code.DEVICE_MISSING, Origin.DOMAIN, f"device not found: {message}")


@contextmanager
def reading(origin: int = Origin.DOMAIN) -> Iterator[None]:
    """Reading a client's description: what is wrong in it crosses the RPC as an error in XML."""
    try:
        yield
    except ConfigError as error:
        raise xml_error(str(error), origin) from error


@contextmanager
def judging(origin: int = Origin.DOMAIN) -> Iterator[None]:
    """Looking whether what a description asks for can be had: what cannot crosses the RPC as unsupported."""
    try:
        yield
    except ConfigError as error:
        raise unsupported_config(str(error), origin) from error
